"""What a run has made travels with its status, and loses it where it is edited."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.errors import CheckpointError, ModelError, ShapeError
from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify

DOUBLE = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 2, generator=GENERATOR, dtype=DOUBLE)
Y = X[:, 0].sign()


def model(x: Tensor) -> Tensor:
    return x @ pyro.sample(
        "w", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1).to_event(1)
    )


def loss(f: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-f * y)


def wrong(f: Tensor, y: Tensor) -> Tensor:
    return (f * y <= 0).to(f)


def guide(args: Any, targets: Any) -> None:
    pyro.sample("w", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))


def sampler(**options: Any) -> GibbsPosterior:
    settings = {"betas": [0.5], "num_particles": 16, "pilot_particles": 8, **options}
    if settings.get("method") == "importance":
        settings["guide"] = guide
    return GibbsPosterior(
        GibbsModel(model, loss), seed=1, progress_bar=False, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smc", "importance", "langevin"])
def test_all_that_a_run_makes_travels_with_its_status(method: str, tmp_path) -> None:
    run = sampler(method=method)
    found = run.run(X, Y)
    found.summary()
    found.posterior_predictive()
    made: list[Any] = [run, run.model, found, found.codebook(), found.stage(0)]
    made += [certify(found.codebook(), wrong, (X, Y)), found.target]
    if method == "smc":
        made += [found.extend(2), found.extend(2).codebook(), found._mover]
    for one in made:
        for back in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
            assert type(back) is type(one)
            if hasattr(one, "status"):
                assert back.status == one.status == "finite_sample"
    back = pickle.loads(pickle.dumps(found.codebook()))
    again = certify(back, wrong, (X, Y))
    assert again.value == certify(found.codebook(), wrong, (X, Y)).value


@pytest.mark.slow
def test_no_part_of_a_posterior_can_be_edited_unseen() -> None:
    found = sampler().run(X, Y)
    assert found.status == "finite_sample"
    assert found.origin is not None
    stage = found.stages[-1]
    edits: dict[str, Any] = {
        "stages": (
            *found.stages[:-1],
            stage._replace(log_weights=stage.log_weights + 1),
        ),
        "planned": 1,
        "origin": found.origin._replace(betas=(0.1, 0.5)),
        "beta": 0.1,
        "model": GibbsModel(guide, loss),
    }
    for name, value in edits.items():
        forged = copy.deepcopy(found)
        setattr(forged, name, value)
        assert forged.status == "unverified", name
        assert forged.codebook().status == "unverified"
    forged = copy.deepcopy(found)
    forged.log_weights.add_(1.0)
    assert forged.status == "unverified"
    # a seal does not fit another posterior
    other = sampler(num_particles=8).run(X, Y)
    other._sealed = found._sealed
    assert other.status == "unverified"


def edited(path: Path, change: float) -> None:
    """Add to all weights in the stored state."""
    for file in (path / ".state").glob("*.npz"):
        with np.load(file) as arrays:
            values = dict(arrays)
        for name, value in values.items():
            if value.dtype == np.float64 and value.shape == (16,) and (value < 0).all():
                values[name] = value + change
        with file.open("wb") as stream:
            np.savez(stream, **values)


def test_an_edited_store_is_not_gone_on_with(tmp_path) -> None:
    path = tmp_path / "run.zarr"
    first = sampler(store=path).run(X, Y)
    edited(path, 0.0)  # written again, but as it was
    again = sampler(store=path).resume(X, Y)
    assert again.status == "finite_sample"
    assert torch.equal(again.log_weights, first.log_weights)
    edited(path, 2.0)
    with pytest.raises(CheckpointError, match="changed|store"):
        sampler(store=path).resume(X, Y)


# -- predictions that cannot be compared ----------------------------------------------


def returns(value: Any) -> Any:
    def program(x: Tensor) -> Any:
        w = model(x)
        return w if value == "prediction" else value

    return program


@pytest.mark.parametrize("value", [None, {}, "text", 1.0])
def test_a_model_without_a_prediction_says_so(value: Any) -> None:
    with pytest.raises(ModelError, match=r"returns no prediction.*End the model with"):
        GibbsPosterior(GibbsModel(returns(value), loss)).run(X, Y)


@pytest.mark.parametrize(
    ("reduced", "message"),
    [
        (lambda f, y: None, "the loss is no tensor"),
        (lambda f, y: float(f.sum()), "the loss is no tensor"),
        (lambda f, y: (f - y).square().mean(), r"shape \(\)"),
        (lambda f, y: f[:, None] - y, r"shape \(30, 30\).*squeeze"),
        (lambda f, y: f[:7] - y, r"shapes \[\(30,\), \(30,\)\]"),
        (lambda f, y: f.shape[3], r"cannot compare"),
    ],
)
def test_losses_of_a_wrong_shape_say_so(reduced: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        GibbsPosterior(GibbsModel(model, reduced)).run(X, Y)
