"""The step on the ladder, under vmap, and for a long time."""

from __future__ import annotations

import pytest
import torch

from pyro_geo.density.ladder import Lifted
from pyro_geo.filtering.tracker.belief import Belief, Parameters, StepInfo
from pyro_geo.filtering.tracker.presets import PRESETS, preset
from pyro_geo.filtering.tracker.runs import Runs
from tests.filtering.tracker.scenes import F64, follow, stacked, tracker, walk


def made(name: str) -> Runs:
    chosen = preset(name, (0.15, 0.01) if name == "lidar" else 30.0)
    R = torch.diag(torch.tensor(chosen.noise, dtype=F64) ** 2)
    return Runs(
        chosen.dynamics,
        chosen.measurement,
        R,
        faults=chosen.faults,
        keep=chosen.keep,
        p_fault=chosen.p_fault,
        speed=chosen.speed,
        hold=chosen.hold,
    )


def arguments(runs: Runs, tracks: int = 3):
    params = runs.parameters()
    size = runs.plan.measurement.size
    generator = torch.Generator().manual_seed(4)
    y = 10.0 + 0.1 * torch.rand(size, tracks, dtype=F64, generator=generator)
    y[-1] = y[-1] / 30.0
    here = torch.ones(tracks, dtype=torch.bool)
    dt = torch.full((tracks,), 0.5, dtype=F64)
    belief = runs.init(params, y, here)
    belief, _ = runs.step(params, belief, y + 0.01, here, dt)
    return params, belief, y + 0.02, here, dt


def compare(runs: Runs, rung: str) -> Lifted:
    args = arguments(runs)
    lifted = Lifted(lambda data, *inputs: runs.step(*inputs), name="step")
    found = lifted((), *args, rung=rung)  # type: ignore[arg-type]
    expected = runs.step(*args)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, tuple)
        flat_one, flat_other = leaves(one), leaves(other)
        assert len(flat_one) == len(flat_other)
        for a, b in zip(flat_one, flat_other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, equal_nan=True)
    assert lifted.rung == rung
    assert not lifted.notes
    return lifted


def leaves(tree: object) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    assert isinstance(tree, tuple)
    return [leaf for part in tree for leaf in leaves(part)]


@pytest.mark.parametrize("name", ["lidar", "level"])
def test_the_whole_step_is_one_graph(name):
    size = compare(made(name), "traced").size
    assert 100 < size.operations < 1500


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRESETS))
def test_compiled_equals_eager_to_rounding(name):
    compare(made(name), "compiled")


def test_steps_map_over_parameters_and_keep_their_gradients():
    y, _ = walk(4, 2)
    y[2, 0] += 20.0
    runs = tracker()
    params = runs.parameters()
    belief, _ = follow(runs, y[:3])
    here, dt = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=F64)

    def evidence(q: torch.Tensor, p_fault: torch.Tensor) -> torch.Tensor:
        now = params._replace(q=q, p_fault=p_fault)
        return runs.step(now, belief, y[3], here, dt)[1].log_evidence.sum()

    q = torch.stack([params.q, 2 * params.q, 3 * params.q])
    chance = torch.tensor([0.05, 0.1, 0.2], dtype=F64)
    mapped = torch.func.vmap(evidence)(q, chance)
    alone = [evidence(a, b) for a, b in zip(q, chance, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(alone), rtol=1e-12, atol=1e-12)
    slopes = torch.func.vmap(torch.func.grad(evidence, argnums=(0, 1)))(q, chance)
    one = torch.func.grad(evidence, argnums=(0, 1))(q[1], chance[1])
    for many, single in zip(slopes, one, strict=True):
        torch.testing.assert_close(many[1], single, rtol=1e-10, atol=1e-12)
        assert torch.isfinite(many).all()
        assert many.abs().max() > 0


def test_a_step_passes_only_tensors_on():
    runs = made("terminal")
    params, belief, *_ = arguments(runs)
    assert isinstance(params, Parameters)
    assert isinstance(belief, Belief)
    info = runs.describe(belief)
    assert isinstance(info, StepInfo)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves(belief))
    lanes = belief.weight.shape
    assert lanes == (6, 2, 3)
    assert info.mean.shape == (4, 3)
    assert info.cov.shape == (4, 4, 3)
    assert info.mode_prob.shape == (4, 3)


def test_what_a_belief_says_is_what_its_step_told():
    y, _ = walk(15, 3)
    runs = tracker()
    belief, told = follow(runs, y)
    again = runs.describe(belief)
    for name in ("mean", "cov", "mode_prob", "dynamics_prob", "p_nominal"):
        assert torch.equal(getattr(again, name), getattr(told[-1], name))


@pytest.mark.slow
def test_a_million_steps_without_drift():
    """The moments of a stationary track settle, and stay, in single precision."""
    dtype = torch.float32
    runs = tracker()
    params = runs.parameters(dtype)
    lifted = Lifted(lambda data, *inputs: runs.step(*inputs), name="step")
    here, dt = torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    belief = runs.init(params, torch.zeros(2, 1, dtype=dtype), here)
    call = lifted.specialise(
        (), params, belief, torch.zeros(2, 1, dtype=dtype), here, dt, rung="compiled"
    )
    seen, info = [], runs.describe(belief)
    for _ in range(1000):
        noise = 2.0 * torch.randn(1000, 2, 1, dtype=dtype, generator=generator)
        for row in noise:
            belief, info = call(params, belief, row, here, dt)
        assert not info.restarted.any()
        seen.append(info)
    cov = stacked(seen, "cov")
    assert torch.isfinite(cov).all()
    # medians: while a report is doubted the covariance grows, now and then by much
    variance = cov.diagonal(dim1=1, dim2=2).squeeze(1)
    start, end = variance[10:400].median(0).values, variance[-390:].median(0).values
    torch.testing.assert_close(start, end, rtol=0.1, atol=0.0)
    assert (cov - cov.transpose(1, 2)).abs().max() < 1e-5 * cov.abs().max()
    assert stacked(seen, "mean")[:, :2].abs().median() < 2.0
    torch.testing.assert_close(
        stacked(seen, "mode_prob").sum(1), torch.ones(1000, 1, dtype=dtype)
    )
