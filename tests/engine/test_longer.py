"""A run that is made longer equals one that was so long at once, or is refused."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.engine import Block, Kernel, Noise
from pyro_geo.errors import CheckpointError, ConvergenceWarning
from pyro_geo.infer import DIMS, HMC
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import check_run, open_run
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import effects
from tests.engine.test_durable import DOUBLE, TARGET, Y, content, run, same

STEPS = {"step_size": 0.2, "num_steps": 3}  # blocks of 25 draws


def longer(
    tmp_path: Path,
    lengths: tuple[int, ...],
    make: Any = None,
    args: tuple[Any, ...] = (Y,),
    **options: Any,
) -> None:
    """Make a run longer and longer, and compare it with the longest at once."""
    path = tmp_path / "run.zarr"
    kernel = make or partial(FixedHMC, TARGET, **STEPS)
    fit = run(kernel(), lengths[0], store=path, **options).run(*args)
    for num_samples in lengths[1:]:
        fit = run(kernel(), num_samples, store=path, **options).resume(*args)
    whole = run(kernel(), lengths[-1], store=tmp_path / "whole.zarr", **options)
    whole.run(*args)
    if options.get("keep") is None:
        same(fit, whole)
    sites = fit.get_samples(group_by_chain=True)
    for name, value in whole.get_samples(group_by_chain=True).items():
        assert torch.equal(sites[name], value)
    for name, value in whole.stats.items():
        assert torch.equal(fit.stats[name], value)
    assert check_run(path)["num_draws"] == lengths[-1] // options.get("thin", 1)
    assert check_run(path)["planned_draws"] == lengths[-1] // options.get("thin", 1)
    assert check_run(path)["finished"] is True
    stored = get_group(open_run(path), "posterior")
    expected = get_group(open_run(tmp_path / "whole.zarr"), "posterior")
    assert stored is not None
    assert expected is not None
    for name, array in expected.data_vars.items():
        np.testing.assert_array_equal(stored[name].values, array.values)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(1, 2), (10, 60), (26, 49, 51), (7, 8, 9, 80)])
def test_runs_end_anywhere_in_a_block(tmp_path, lengths):
    longer(tmp_path, lengths)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"thin": 3},
        pytest.param({"thin": 25}, marks=pytest.mark.slow),
        pytest.param({"keep": ["theta", "tau"]}, marks=pytest.mark.slow),
        {"keep": ["theta"], "thin": 2},
        pytest.param({"memory_limit": 0}, marks=pytest.mark.slow),
        {"chain_batch_size": 3},
        pytest.param({"num_chains": 1}, marks=pytest.mark.slow),
        pytest.param({"warmup_steps": 0}, marks=pytest.mark.slow),
        pytest.param({"dtype": torch.float32}, marks=pytest.mark.slow),
        {"compile": "auto"},
    ],
    ids=str,
)
def test_no_option_makes_a_longer_run_another(tmp_path, options):
    make = None
    if "dtype" in options:  # another target than the shared one
        make = partial(FixedHMC, effects, **STEPS)
    longer(tmp_path, (30, 60), make, **options)


@pytest.mark.slow
def test_hmc_keeps_its_jitter_in_step(tmp_path):
    longer(tmp_path, (30, 60), partial(HMC, effects, step_size=0.2), warmup_steps=40)


PLANE = Target.from_potential(
    lambda q: (q[0] + q[1] - 1) ** 2, 2, dtype=DOUBLE
)  # its minima are a line
ISOTROPIC = {"alpha": 0.0, "anchor_steps": 100, "velocity": "isotropic"}


@pytest.mark.slow
def test_dims_takes_as_many_lanes_as_if_asked_at_once(tmp_path):
    make = partial(DIMS, PLANE, **ISOTROPIC)
    longer(tmp_path, (2, 5, 17), make, (), warmup_steps=None)


@pytest.mark.slow
def test_dims_with_velocities_of_the_users(tmp_path):
    def one_by_one(anchor, draws, generator):
        rows = [torch.randn(2, generator=generator, dtype=DOUBLE) for _ in range(draws)]
        return 0.3 * torch.stack(rows)

    def at_once(anchor, draws, generator):
        # torch fills a long tensor in another order than a short one
        return 0.3 * torch.randn(draws, 2, generator=generator, dtype=DOUBLE)

    make = partial(DIMS, PLANE, **(ISOTROPIC | {"velocity": one_by_one}))
    longer(tmp_path, (3, 20), make, (), warmup_steps=0)
    make = partial(DIMS, PLANE, **(ISOTROPIC | {"velocity": at_once}))
    options: dict[str, Any] = {"warmup_steps": 0, "store": tmp_path / "other.zarr"}
    run(make(), 3, **options).run()
    with pytest.raises(CheckpointError, match="a longer block of DIMS has other first"):
        run(make(), 20, **options).resume()


@pytest.mark.slow
def test_groups_in_processes_of_their_own(tmp_path):
    make = partial(FixedHMC, effects, **STEPS)
    longer(tmp_path, (30, 60), make, chain_batch_size=2, n_jobs=2)


def test_an_interrupted_run_is_made_longer_or_shorter(tmp_path):
    class Stopping(FixedHMC):
        calls = 0

        def block(self, *args: Any, **options: Any) -> Block:
            self.calls += 1
            if self.calls == 4:  # two blocks of draws follow that of warm-up
                raise KeyboardInterrupt
            return super().block(*args, **options)

    Stopping.__name__ = "FixedHMC"
    path = tmp_path / "run.zarr"
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        run(Stopping(TARGET, **STEPS), store=path).run(Y)
    for num_samples in (110, 60, 50):
        copy = tmp_path / f"{num_samples}.zarr"
        shutil.copytree(path, copy)
        fit = run(num_samples=num_samples, store=copy).resume(Y)
        same(fit, run(num_samples=num_samples).run(Y))
        assert check_run(copy)["planned_draws"] == num_samples


def test_an_interrupt_in_the_block_made_again_loses_nothing(tmp_path):
    path = tmp_path / "run.zarr"
    short = run(num_samples=60, store=path).run(Y)

    class Stopping(FixedHMC):
        def block(self, *args: Any, **options: Any) -> Block:
            raise KeyboardInterrupt

    Stopping.__name__ = "FixedHMC"
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        cut = run(Stopping(TARGET, **STEPS), 120, store=path).resume(Y)
    assert torch.equal(cut.positions, short.positions)
    assert check_run(path)["num_draws"] == 60
    same(run(num_samples=70, store=path).resume(Y), run(num_samples=70).run(Y))


def test_the_first_runs_own_choice_of_warm_up_stays(tmp_path):
    """A kernel's default may be as many steps as draws: then it is another run."""
    path = tmp_path / "run.zarr"
    options: dict[str, Any] = {"store": path, "warmup_steps": None}
    run(num_samples=30, **options).run(Y)
    fit = run(num_samples=60, **options).resume(Y)
    assert fit.warmup_steps == 30
    same(fit, run(num_samples=60, warmup_steps=30).run(Y))
    with pytest.raises(CheckpointError, match=r"run\.warmup_steps"):
        run(num_samples=90, store=path, warmup_steps=90).resume(Y)


# -- kernels of other people that cannot be made longer --------------------------------


class Uniform(Kernel):
    """Draws from a box."""

    statistics = ("lp", "diverging")

    def start(self, target, group):
        return group.burn_in(group.starts(target))

    def block(self, target, state, chains, draws, noise):
        return self.made(target, noise.uniform(draws, target.dim, dtype=DOUBLE))

    def made(self, target, q):
        lp = target.log_prob(q.flatten(0, 1)).view(q.shape[:2])
        stats = {"lp": lp, "diverging": ~lp.isfinite()}
        return Block(q[:, -1], q, stats, q.shape[1], target.rung)


class SideBySide(Uniform):
    """Its numbers have the draws on their second axis."""

    def block(self, target, state, chains, draws, noise):
        return self.made(target, noise.uniform(target.dim, draws, dtype=DOUBLE).mT)


class Informed(Uniform):
    """Its start knows how many draws are planned."""

    def start(self, target, group):
        return group.burn_in(group.starts(target) / group.num_samples)


class Sized(Uniform):
    """Its blocks follow from how many draws are planned."""

    def block_draws(self, target, num_samples, num_chains):
        return max(1, num_samples // 2)


class OneByOne(Uniform):
    """It asks for the numbers of each draw when it comes to it."""

    def block(self, target, state, chains, draws, noise):
        rows = [noise.normal(target.dim, dtype=DOUBLE) for _ in range(draws)]
        return self.made(target, torch.stack(rows, 1))


@pytest.mark.parametrize("kernel", [Uniform, OneByOne])
def test_a_kernel_of_another_is_made_longer(tmp_path, kernel):
    longer(tmp_path, (30, 60), partial(kernel, TARGET))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (SideBySide, "a longer block of SideBySide has other first draws.*lp"),
        (Informed, "start of Informed depends.*60.*30"),
        (Sized, "Sized makes blocks of another length.*30.*15"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"chain_batch_size": 2}, {"memory_limit": 0}])
def test_another_kernel_is_refused_and_nothing_changes(
    tmp_path, kernel, message, options
):
    path = tmp_path / "run.zarr"
    first = run(kernel(TARGET), 30, store=path, **options).run(Y)
    before = content(path)
    with pytest.raises(CheckpointError, match=message):
        run(kernel(TARGET), 60, store=path, **options).resume(Y)
    assert content(path) == before
    again = run(kernel(TARGET), 30, store=path, **options).resume(Y)
    assert torch.equal(again.positions, first.positions)


def test_a_kernel_that_can_go_on_is_not_asked_twice(tmp_path):
    """After whole blocks nothing is made again, so that nothing is compared."""
    longer(tmp_path, (50, 100), partial(SideBySide, TARGET))


def test_shorter_than_what_is_there_is_refused(tmp_path):
    path = tmp_path / "run.zarr"
    run(num_samples=60, store=path).run(Y)
    before = content(path)
    with pytest.raises(CheckpointError, match="num_samples.*at least 60"):
        run(num_samples=59, store=path).resume(Y)
    assert content(path) == before


# -- the numbers of a part of a block --------------------------------------------------


@pytest.mark.parametrize("draws", [1, 2, 6])
def test_a_part_of_a_block_has_the_first_numbers_of_the_whole(draws):
    part, whole = (Noise(3).block([0, 4], 2, (n, 7)) for n in (draws, 7))
    plain = Noise(3).block([0, 4], 2)
    for shape in ((5,), (), (2, 3)):
        first, all_of_it = part.normal(draws, *shape), whole.normal(7, *shape)
        assert torch.equal(first, all_of_it[:, :draws])
        assert torch.equal(all_of_it, plain.normal(7, *shape))
    assert torch.equal(part.uniform(draws), whole.uniform(7)[:, :draws])
    plain.uniform(7)
    seeds = [noise.generator(1).initial_seed() for noise in (part, whole, plain)]
    assert len(set(seeds)) == 1
    assert torch.equal(part.uniform(9, 2), whole.uniform(9, 2))
