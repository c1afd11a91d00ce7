"""Another model, loss or velocity is refused; the same one is accepted, however run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine import session
from pyro_geo.engine.densities import at_draws, at_probes, check_known, check_values
from pyro_geo.engine.density_session import DensitySession
from pyro_geo.engine.identity import Likeness, describe_model
from pyro_geo.errors import CheckpointError
from pyro_geo.infer import DIMS, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import FAST, Case, numbers
from tests.engine.test_durable import content

CHANGED = Likeness(model=False, machine=True)  # the bits must agree
ELSEWHERE = Likeness(model=False, machine=False)  # rounding is allowed for
DTYPES = [torch.float64, torch.float32]


def normal_model(
    y: Tensor,
    loc: float = 0.0,
    scale: float = 1.0,
    noise: float = 1.0,
    kind: Any = dist.Normal,
    shift: float = 0.0,
) -> Callable[[], None]:
    """A mean and a log-scale, the data in a closure."""

    def model() -> None:
        mean = pyro.sample("mean", kind(y.new_tensor(loc), scale))
        width = pyro.sample("width", dist.LogNormal(y.new_tensor(shift), 0.3))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, noise * width), obs=y)

    return model


def known(target: Target, step_size: float) -> list[Any]:
    """What a store knows after a few draws of a posterior."""
    settings: Any = {"seed": 1, "progress_bar": False, "compile": False}
    kernel = FixedHMC(target, step_size=step_size, num_steps=3)
    draws = MCMC(kernel, 20, 20, 4, **settings).run().positions.flatten(0, 1)
    return [
        f(target, Target.log_prob, *q)
        for f, q in ((at_probes, ()), (at_draws, (draws,)))
    ]


def refused(target: Target, stored: list[Any], likeness: Likeness) -> bool:
    try:
        for one in stored:
            check_known("here", target, one, Target.log_prob, likeness)
    except CheckpointError:
        return True
    return False


CHANGES: dict[str, dict[str, Any]] = {
    "prior three times as wide": {"scale": 3.0},
    "prior a third as wide": {"scale": 1 / 3},
    "prior a little wider": {"scale": 1.001},
    "prior moved": {"loc": 0.1},
    "prior moved a little": {"loc": 0.001},
    "prior of another kind": {"kind": dist.Laplace},
    "prior of the scale moved": {"shift": 0.01},
    "noise a little wider": {"noise": 1.001},
    "noise wider": {"noise": 1.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, pytest.param(10, marks=pytest.mark.slow), 20_000])
def test_no_changed_density_is_missed(dtype, rows):
    """Whatever the data make of the prior, with the bits and without."""
    y = (1 + numbers(rows)).to(dtype)
    target = Target.from_model(normal_model(y), dtype=dtype)
    stored = known(target, 0.1 / rows**0.5)
    same = Target.from_model(normal_model(y.clone()), dtype=dtype)
    assert not refused(same, stored, CHANGED)
    for name, change in CHANGES.items():
        other = Target.from_model(normal_model(y, **change), dtype=dtype)
        for likeness in (CHANGED, ELSEWHERE):
            assert refused(other, stored, likeness), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_prior_inside_a_potential_is_not_missed(dtype):
    """Prior and likelihood are one number there, and the prior the lesser part."""
    y = (1 + numbers(20_000)).to(dtype)

    def potential(scale: float) -> Target:
        def fn(q: Tensor) -> Tensor:
            return 0.5 * (y - q[0]).square().sum() + 0.5 * (q / scale).square().sum()

        return Target.from_potential(fn, 3, dtype=dtype)

    stored = known(potential(1.0), 1e-3)
    assert not refused(potential(1.0), stored, CHANGED)
    for scale in (3.0, 1 / 3, 1.01):
        assert refused(potential(scale), stored, CHANGED)


# -- whole runs ------------------------------------------------------------------------

Y = 1 + numbers(50, seed=5)


def stored_run(
    tmp_path: Any, kernel: Any, dtype: torch.dtype = torch.float64, **options: Any
) -> MCMC:
    settings: dict[str, Any] = {"seed": 1, "progress_bar": False, "compile": False}
    settings |= {"store": tmp_path / "run.zarr", "dtype": dtype}
    return MCMC(kernel, 30, 10, 2, **(settings | options))


def hmc(model: Any) -> FixedHMC:
    return FixedHMC(model, step_size=0.05, num_steps=3)


def commented(y: Tensor, told: list[float]) -> Callable[[], None]:
    """The same density as `normal_model` in other words."""

    def model() -> None:
        told.append(1.0)
        prior = dist.Normal(y.new_tensor(0.0), 1.0)
        mean = pyro.sample("mean", prior)
        spread = pyro.sample("width", dist.LogNormal(y.new_tensor(0.0), 0.3))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0 * spread), obs=y)

    return model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_words_for_the_same_density_are_accepted(tmp_path, dtype):
    y = Y.to(dtype)
    fit = stored_run(tmp_path, hmc(normal_model(y)), dtype).run()
    told: list[float] = []
    again = stored_run(tmp_path, hmc(commented(y, told)), dtype).resume()
    assert told
    assert torch.equal(again.positions, fit.positions)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("finished", [True, False])
def test_another_prior_or_other_data_held_are_refused(tmp_path, dtype, finished):
    y = Y.to(dtype)

    class Stopping(FixedHMC):
        def block(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("stop")

    Stopping.__name__ = "FixedHMC"
    if finished:
        stored_run(tmp_path, hmc(normal_model(y)), dtype).run()
    else:  # before the first draw there are the probes alone
        kernel = Stopping(normal_model(y), step_size=0.05, num_steps=3)
        with pytest.raises(RuntimeError, match="stop"):
            stored_run(tmp_path, kernel, dtype).run()
    before = content(tmp_path / "run.zarr")
    other_datum = y.clone()
    other_datum[7] += 1e-6
    for model, message in (
        (normal_model(y, scale=3.0), "not the one that was sampled.*log-prior"),
        (normal_model(y, noise=1.001), "not the one that was sampled.*log-likelihood"),
        (normal_model(other_datum), r"data held by the model, model\.closure\.y"),
    ):
        with pytest.raises(CheckpointError, match=message):
            stored_run(tmp_path, hmc(model), dtype).resume()
    assert content(tmp_path / "run.zarr") == before


PLANE = Target.from_potential(lambda q: (q.sum() - 1) ** 2, 2, dtype=torch.float64)


def scaled_loss(factor: float) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda sites: factor * (sites["q"].sum() - 1) ** 2


def fixed_velocity(speed: float) -> Callable[..., Tensor]:
    def velocity(anchor: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        return speed * torch.randn(
            draws, len(anchor), generator=generator, dtype=anchor.dtype
        )

    return velocity


def test_a_changed_loss_or_velocity_is_refused(tmp_path):
    def kernel(factor: float = 1.0, speed: float = 1.0) -> DIMS:
        return DIMS(
            PLANE,
            loss=scaled_loss(factor),
            velocity=fixed_velocity(speed),
            alpha=0.0,
            anchor_steps=50,
        )

    options: dict[str, Any] = {"warmup_steps": 0, "num_chains": 1}
    settings: Any = {"seed": 1, "progress_bar": False, "compile": False}
    settings |= {"store": tmp_path / "run.zarr"}
    fit = MCMC(kernel(), 4, **options, **settings).run()
    again = MCMC(kernel(), 4, **options, **settings).resume()
    assert torch.equal(again.positions, fit.positions)
    for other, path in (
        (kernel(factor=1.0 + 1e-9), r"objective\.loss\.closure\.factor"),
        (kernel(speed=2.0), r"options\.velocity\.closure\.speed"),
    ):
        with pytest.raises(CheckpointError, match=rf"settings\.{path}"):
            MCMC(other, 4, **options, **settings).resume()


# -- the Gibbs posterior ---------------------------------------------------------------

X = numbers(40, 2)
TARGETS = X @ torch.tensor([1.0, -1.0], dtype=torch.float64)


def linear(scale: float = 1.0, weight: float = 1.0) -> GibbsModel:
    def model(x: Tensor) -> Tensor:
        prior = dist.Normal(torch.zeros(2), scale).to_event(1)
        return x @ pyro.sample("w", prior)

    return GibbsModel(model, lambda f, y: weight * (f - y) ** 2)


def gibbs(path: Any, model: GibbsModel, **options: Any) -> GibbsPosterior:
    settings: dict[str, Any] = {
        "betas": [0.5, 1.0],
        "num_particles": 16,
        "seed": 1,
        "progress_bar": False,
        "store": path,
    }
    return GibbsPosterior(model, **(settings | options))


def test_another_gibbs_posterior_is_refused(tmp_path):
    path = tmp_path / "run.zarr"
    expected = gibbs(path, linear()).run(X, TARGETS)
    found = gibbs(path, linear()).resume(X, TARGETS)
    assert torch.equal(found.positions, expected.positions)
    before = content(path)
    for model, options, message in (
        (linear(scale=3.0), {}, "not the one that was sampled.*log-prior"),
        (linear(weight=1.0 + 1e-9), {}, r"run\.loss\.closure\.weight"),
        (linear(), {"betas": [0.5, 1.0, 2.0]}, r"settings\.betas"),
        (linear(), {"num_particles": 32}, r"settings\.num_particles"),
    ):
        with pytest.raises(CheckpointError, match=message):
            gibbs(path, model, **options).resume(X, TARGETS)
    assert content(path) == before


# -- what is the same ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_the_same_model_is_known_on_any_number_of_threads(case: Case):
    """Made anew, on any number of threads, after graphs were made for other rungs."""
    target = case.target
    log_prob = case.kernel(target).log_prob
    draws = case.fit.positions.flatten(0, 1)
    stored = [at_probes(target, log_prob), at_draws(target, log_prob, draws)]
    model: Any = case.model
    other = Target.from_model(model, *case.args, dtype=case.dtype)
    other.value_and_grad(draws)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for one in stored:
                check_known("here", other, one, log_prob, CHANGED)
    finally:
        torch.set_num_threads(before)
    assert describe_model(target) == describe_model(other)
    lp = case.fit.stats["lp"].flatten()
    check_values("here", "lp", lambda q: log_prob(other, q), draws, lp)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_data_lie_in_memory_changes_nothing(dtype):
    """A matrix product may round by how its numbers are aligned."""
    x, y = numbers(97, 31).to(dtype), numbers(97).to(dtype)

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(31), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(w @ x.mT, 1.0), obs=y)

    target = Target.from_model(model, x, y, dtype=dtype)
    stored = at_probes(target, Target.log_prob)
    memory = torch.empty(x.numel() + 64, dtype=dtype)
    for shift in range(1, 16):
        moved = memory[shift : shift + x.numel()].view(x.shape).copy_(x)
        other = Target.from_model(model, moved, y, dtype=dtype)
        check_known("here", other, stored, Target.log_prob, CHANGED)


def test_a_model_that_fails_far_out_is_accepted(tmp_path):
    """No chain was ever there, so that nothing is asked of it."""

    def model() -> None:
        q = pyro.sample("q", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        if bool((q.abs() > 4).any()):
            raise ValueError("too far")
        pyro.factor("data", -q.square().sum())

    with pytest.warns(UserWarning, match="one at a time"):
        fit = stored_run(tmp_path, hmc(model)).run()
    with pytest.warns(UserWarning, match="one at a time"):
        again = stored_run(tmp_path, hmc(model)).resume()
    assert torch.equal(again.positions, fit.positions)


def test_what_a_store_knows_of_its_density_may_be_damaged():
    stored = at_probes(PLANE, Target.log_prob)
    like = Likeness(model=True, machine=True)
    for bad in (
        stored._replace(q=stored.q[:, :1]),
        stored._replace(values=stored.values[:3]),
        stored._replace(values=None),
    ):
        with pytest.raises(CheckpointError, match="knows of its density is damaged"):
            check_known("here", PLANE, bad, Target.log_prob, like)
    for restored in (3, (1, {"probes": 2}), (1, 2, 3)):
        with pytest.raises(CheckpointError, match="the store is damaged"):
            session._parts("here", restored)
    empty, store = SimpleNamespace(_known={}), SimpleNamespace(path="here")
    with pytest.raises(CheckpointError, match="the store is damaged"):
        DensitySession._confirm(empty, store, like)  # type: ignore[arg-type]
