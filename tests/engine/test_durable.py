"""Runs in a store: resumed bit for bit, whatever stopped them; bounded memory."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo._compat.zarr import checksum
from pyro_geo.density import Target
from pyro_geo.engine import chains, record
from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    ConvergenceWarning,
    FallbackWarning,
    ModelError,
    UnsupportedError,
)
from pyro_geo.infer import HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.io import report
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import _array, _run, check_run, open_run
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import effects, numbers
from tests.io.hostile import sign

Y = 2 * numbers(4, seed=2)
DOUBLE = torch.float64
BLOCK = 25  # of the kernel
TARGET = Target.from_model(effects, Y, dtype=DOUBLE)  # traced once


def run(kernel: Any = None, num_samples: int = 120, **options: Any) -> MCMC:
    settings: dict[str, Any] = {
        "warmup_steps": 20,
        "num_chains": 4,
        "seed": 1,
        "progress_bar": False,
        "compile": False,
        "dtype": DOUBLE,
    }
    kernel = fixed(TARGET) if kernel is None else kernel
    return MCMC(kernel, num_samples, **(settings | options))


@pytest.fixture(scope="module")
def whole() -> MCMC:
    """A run that never stops and has no store."""
    return run().run(Y)


def same(fit: MCMC, other: MCMC) -> None:
    assert torch.equal(fit.positions, other.positions)
    assert set(fit.stats) == set(other.stats)
    for name, value in fit.stats.items():
        assert torch.equal(value, other.stats[name])
    for name in ("num_steps", "num_gradients", "warmup_num_steps", "rung", "run_seed"):
        assert getattr(fit, name) == getattr(other, name)
    assert fit.notes == other.notes


def fixed(model: Any, **options: Any) -> FixedHMC:
    return FixedHMC(model, **({"step_size": 0.2, "num_steps": 3} | options))


class Stop(Exception):
    """Whatever a model may raise."""


def stopping(after: int, error: type[BaseException] = Stop) -> FixedHMC:
    """A kernel that fails in its block of draws number `after`."""
    kernel = fixed(TARGET)
    calls = [0]

    class Stopping(FixedHMC):
        def block(self, *args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] > after + 1:  # the first one is warm-up
                raise error
            return super().block(*args, **options)

    Stopping.__name__ = "FixedHMC"
    kernel.__class__ = Stopping
    return kernel


# -- resuming -----------------------------------------------------------------------


def test_a_store_changes_no_draw_and_holds_them_all(whole, tmp_path):
    path = tmp_path / "run.zarr"
    fit = run(store=path).run(Y)
    same(fit, whole)
    expected, stored = whole.to_arviz(log_likelihood=False), open_run(path)
    for group in ("posterior", "sample_stats", "observed_data"):
        ours, theirs = get_group(expected, group), get_group(stored, group)
        assert ours is not None
        assert theirs is not None
        assert set(ours.data_vars) == set(theirs.data_vars)
        for name, array in ours.data_vars.items():
            assert array.dims == theirs[name].dims
            assert array.dtype == theirs[name].dtype
            np.testing.assert_array_equal(array.values, theirs[name].values)
    posterior = get_group(stored, "posterior")
    assert posterior is not None
    facts = posterior.attrs
    assert facts["kernel"] == "FixedHMC"
    assert facts["model"] == "Target"
    assert facts["num_draws"] == 120
    assert facts["interrupted"] == 0
    assert check_run(path)["finished"] is True


def test_a_finished_run_is_loaded(whole, tmp_path):
    run(store=tmp_path / "run.zarr").run(Y)
    same(run(store=tmp_path / "run.zarr", seed=None).resume(Y), whole)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("options", [{}, {"chain_batch_size": 3}, {"warmup_steps": 0}])
def test_an_error_in_the_model_loses_no_finished_block(tmp_path, after, options):
    path = tmp_path / "run.zarr"
    expected = run(**options).run(Y)
    groups = 2 if "chain_batch_size" in options else 1
    warm = options.get("warmup_steps", 20) > 0
    broken = run(
        stopping(after * groups + (groups if warm else 0) - 1), store=path, **options
    )
    with pytest.raises(Stop):
        broken.run(Y)
    assert check_run(path)["num_draws"] == BLOCK * after
    if after:
        assert torch.equal(broken.positions, expected.positions[:, : BLOCK * after])
    else:
        with pytest.raises(ModelError, match="no draws"):
            _ = broken.positions
    same(run(store=path, **options).resume(Y), expected)


def test_an_interrupt_keeps_finished_blocks_in_memory_and_in_the_store(whole, tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.warns(UserWarning, match="interrupted.*resume"):
        fit = run(stopping(2, KeyboardInterrupt), store=path).run(Y)
    assert fit.interrupted
    assert fit.positions.shape[1] == 50
    posterior = get_group(open_run(path), "posterior")
    assert posterior is not None
    assert posterior.attrs["interrupted"] == 1
    assert "interrupted" in report(path).read_text()
    again = run(store=path).resume(Y)
    same(again, whole)
    assert not again.interrupted


def test_an_interrupt_waits_for_a_commit(whole, tmp_path, monkeypatch):
    """A signal that comes while a round is committed does not tear it."""
    path = tmp_path / "run.zarr"
    commit = record.DrawRecord.commit
    signals = [signal.SIGINT]

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        if self.num_draws == 2 * BLOCK and signals:
            signal.raise_signal(signals.pop())
        commit(self, *args, **options)

    monkeypatch.setattr(record.DrawRecord, "commit", interrupted)
    # a process in the background of a shell may ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.warns(UserWarning, match="interrupted"):
            fit = run(store=path).run(Y)
    finally:
        signal.signal(signal.SIGINT, before)
    assert fit.positions.shape[1] == 50
    assert check_run(path)["num_draws"] == 50
    same(run(store=path).resume(Y), whole)


@pytest.mark.parametrize("first", [60, 100, 120])
def test_a_run_can_be_made_longer(tmp_path, first):
    path = tmp_path / "run.zarr"
    short = run(num_samples=first, store=path).run(Y)
    longer = run(num_samples=230, store=path).resume(Y)
    assert longer.positions.shape[1] == 230
    assert torch.equal(longer.positions[:, :first], short.positions)
    assert check_run(path)["planned_draws"] == 230
    if first == 100:  # whole blocks: as if it had been asked for at once
        same(longer, run(num_samples=230).run(Y))
    assert not torch.equal(
        longer.positions[:, :50], longer.positions[:, first:][:, :50]
    )


@pytest.mark.slow
def test_hmc_is_resumed_in_its_warm_up(tmp_path, monkeypatch):
    """Adaptation is part of the state: stop after its second block."""
    path = tmp_path / "run.zarr"
    options: dict[str, Any] = {"warmup_steps": 150, "num_chains": 8}
    expected = run(HMC(effects), 60, **options).run(Y)
    rounds = []
    whole = chains.ChainSession._round

    def stop(self: Any, *args: Any) -> None:
        if len(rounds) == 2:
            raise Stop
        rounds.append(0)
        whole(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(chains.ChainSession, "_round", stop)
        with pytest.raises(Stop):
            run(HMC(effects), 60, store=path, **options).run(Y)
    assert check_run(path)["num_draws"] == 0
    found = run(HMC(effects), 60, store=path, **options).resume(Y)
    same(found, expected)
    assert found.tuning is not None
    assert expected.tuning is not None
    assert found.tuning.step_size == expected.tuning.step_size


def test_times_of_all_sittings_are_added(tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.raises(Stop):
        run(stopping(2), store=path).run(Y)
    before = check_times(path)
    fit = run(store=path).resume(Y)
    assert fit.seconds > before > 0
    assert "storing" in fit.timings


def check_times(path: Path) -> float:
    posterior = get_group(open_run(path), "posterior")
    assert posterior is not None
    return posterior.attrs["sampling_time"]


# -- what is kept -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("thin", [3, 50, 120])
def test_thinning_keeps_every_so_manieth_draw(whole, tmp_path, thin, store):
    place = tmp_path / "run.zarr" if store else None
    fit = run(thin=thin, store=place).run(Y)
    kept = 120 // thin
    expected = whole.positions[:, thin - 1 :: thin]
    assert fit.positions.shape[1] == kept
    assert torch.equal(fit.positions, expected)
    assert torch.equal(fit.stats["lp"], whole.stats["lp"][:, thin - 1 :: thin])
    if store:
        again = run(thin=thin, store=place).resume(Y)
        assert torch.equal(again.positions, expected)
        assert check_run(tmp_path / "run.zarr")["num_draws"] == kept


def test_a_thinned_run_is_resumed(whole, tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.raises(Stop):
        run(stopping(2), thin=7, store=path).run(Y)
    fit = run(thin=7, store=path).resume(Y)
    assert torch.equal(fit.positions, whole.positions[:, 6::7])


@pytest.mark.slow
@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("keep", [["theta"], ["tau"], ["mu", "theta"]])
def test_chosen_sites_are_kept(whole, tmp_path, keep, store):
    place = tmp_path / "run.zarr" if store else None
    fit = run(keep=keep, store=place).run(Y)
    expected = get_group(whole.to_arviz(log_likelihood=False), "posterior")
    assert expected is not None
    sites = fit.get_samples(group_by_chain=True)
    assert sorted(sites) == sorted(keep)
    for name, value in sites.items():
        np.testing.assert_array_equal(value.numpy(), expected[name].values)
    assert fit.get_samples()[keep[0]].shape[0] == 480
    assert fit.get_samples(7)[keep[0]].shape[0] == 7
    rows = [f"theta[{i}]" for i in range(4)] if "theta" in keep else []
    plain = [name for name in keep if name != "theta"]
    assert sorted(fit.summary().index) == sorted([*plain, *rows])
    assert set(keep) <= set(fit.diagnostics())
    with pytest.warns(FallbackWarning, match="positions were not kept"):
        posterior = get_group(fit.to_arviz(), "posterior")
    assert posterior is not None
    assert sorted(map(str, posterior.data_vars)) == sorted(keep)
    for ask in (lambda: fit.positions, fit.posterior_predictive):
        with pytest.raises(UnsupportedError, match="positions were not kept"):
            ask()
    if store:
        stored = get_group(open_run(tmp_path / "run.zarr"), "posterior")
        assert stored is not None
        assert sorted(map(str, stored.data_vars)) == sorted(keep)
        again = run(keep=keep, store=place).resume(Y).get_samples(group_by_chain=True)
        assert all(torch.equal(again[name], sites[name]) for name in keep)


@pytest.mark.slow
def test_draws_beyond_the_limit_live_in_the_store_alone(whole, tmp_path):
    path = tmp_path / "run.zarr"
    fit = run(store=path, memory_limit=20_000).run(Y)
    opened = fit.to_arviz(log_likelihood=False)
    posterior = get_group(opened, "posterior")
    assert posterior is not None
    assert posterior["mu"].chunks is not None  # lazily
    with pytest.warns(FallbackWarning, match="left out"):
        fit.to_arviz()
    with pytest.raises(UnsupportedError, match="memory_limit"):
        fit.to_arviz(prior=10)
    assert (fit.summary() - whole.summary()).abs().to_numpy().max() < 1e-12
    assert float(fit.diagnostics()["mu"]["r_hat"]) == pytest.approx(
        float(whole.diagnostics()["mu"]["r_hat"])
    )
    same(fit, whole)  # asked for, they are read
    expected = whole.get_samples()
    for name, value in fit.get_samples().items():
        torch.testing.assert_close(value, expected[name])
    assert "FixedHMC" in fit.report(tmp_path / "x.html").read_text()
    # what is behind `positions` is not held
    held = sum(x.numel() for x in tensors(fit.__dict__) if x.shape[:2] == (4, 120))
    assert held == 0


def tensors(tree: Any, seen: set[int] | None = None) -> list[Tensor]:
    seen = set() if seen is None else seen
    if id(tree) in seen:
        return []
    seen.add(id(tree))
    if isinstance(tree, Tensor):
        return [tree]
    parts: Any = ()
    if isinstance(tree, dict):
        parts = tree.values()
    elif isinstance(tree, (list, tuple)):
        parts = tree
    elif type(tree).__module__.startswith("pyro_geo"):
        parts = getattr(tree, "__dict__", {}).values()
    return [x for part in parts for x in tensors(part, seen)]


def test_a_spilled_run_is_resumed_and_can_be_made_longer(whole, tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.raises(Stop):
        run(stopping(2), store=path, memory_limit=0).run(Y)
    same(run(store=path, memory_limit=0).resume(Y), whole)
    same(run(store=path).resume(Y), whole)


def test_draws_that_are_being_written_are_waited_for(whole, tmp_path, monkeypatch):
    """A slow disk must not make the run look at too few draws."""
    commit = _run.RunStore.commit

    def slow(self: Any, *args: Any, **options: Any) -> None:
        time.sleep(0.1)
        commit(self, *args, **options)

    monkeypatch.setattr(_run.RunStore, "commit", slow)
    seen = []

    class Watched(FixedHMC):
        def review(self, states: Any, stats: Any) -> Any:
            seen.append(stats["lp"])
            return super().review(states, stats)

    Watched.__name__ = "FixedHMC"
    kernel = Watched(TARGET, step_size=0.2, num_steps=3)
    run(kernel, store=tmp_path / "run.zarr", memory_limit=0).run(Y)
    assert torch.equal(seen[0], whole.stats["lp"])


def test_a_result_with_a_store_pickles(whole, tmp_path):
    fit = run(store=tmp_path / "run.zarr").run(Y)
    same(pickle.loads(pickle.dumps(fit)), whole)


# -- a disk that is full ------------------------------------------------------------


@pytest.mark.parametrize("place", [12, 40, 60])
def test_a_store_that_cannot_be_written_ends_the_run_and_keeps_its_draws(
    whole, tmp_path, monkeypatch, place
):
    path = tmp_path / "run.zarr"
    replace_file = _array.replace_file
    left = [place]

    def full(file: Path, content: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        replace_file(file, content)

    fit = run(store=path)
    with monkeypatch.context() as patched:
        patched.setattr(_array, "replace_file", full)
        patched.setattr(_run, "replace_file", full)
        with pytest.raises(
            CheckpointError, match="cannot be written any more.*No space"
        ):
            fit.run(Y)
    stored = check_run(path)["num_draws"]
    # rounds that could not be written are in memory all the same
    kept = fit.positions.shape[1]
    assert kept == 120 or kept >= stored + BLOCK
    assert torch.equal(fit.positions, whole.positions[:, :kept])
    same(run(store=path).resume(Y), whole)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None:
        pytest.skip("there is no command mount")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_real_disk_that_fills_up(small_disk, tmp_path):
    options: dict[str, Any] = {"num_chains": 64, "warmup_steps": 0}
    fit = run(num_samples=2_000, store=small_disk / "run.zarr", **options)
    with pytest.raises(CheckpointError, match="cannot be written any more.*No space"):
        fit.run(Y)
    stored = check_run(small_disk / "run.zarr")["num_draws"]
    print(f"the disk was full after {stored} of 2,000 draws; all of them open")
    assert 50 <= stored < 2_000
    posterior = get_group(open_run(small_disk / "run.zarr"), "posterior")
    assert posterior is not None
    values = torch.from_numpy(posterior["mu"].values)
    kept = fit.get_samples(group_by_chain=True)["mu"]
    assert torch.equal(values, kept[:, :stored])
    # with room again, on another disk, it goes on
    shutil.copytree(small_disk / "run.zarr", tmp_path / "run.zarr")
    longer = run(num_samples=stored + 100, store=tmp_path / "run.zarr", **options)
    assert torch.equal(longer.resume(Y).positions[:, : kept.shape[1]], fit.positions)


# -- what is refused ----------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "run.zarr"
    run(store=path).run(Y)
    return path


def other_prior(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 3.0))
    tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 0.5))
    with pyro.plate("group", y.shape[0]):
        eta = pyro.sample("eta", dist.Normal(y.new_zeros(()), 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def other_sites(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    pyro.sample("y", dist.Normal(mu.expand(y.shape), 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("kernel", "options", "y", "message"),
    [
        (None, {}, Y + 1e-6, r"target\.data"),
        (fixed(effects), {}, Y[:3], r"target\.sites\.eta"),
        (fixed(effects), {"dtype": torch.float32}, Y.float(), r"target\.dtype"),
        (fixed(other_prior), {}, Y, "the density is not the one"),
        (fixed(other_sites), {}, Y, r"target\.sites"),
        (fixed(effects, step_size=0.3), {}, Y, r"settings\.step_size"),
        (HMC(effects), {}, Y, "kernel"),
        (None, {"seed": 2}, Y, "seed"),
        (None, {"num_chains": 5}, Y, r"run\.num_chains"),
        (None, {"warmup_steps": 21}, Y, r"run\.warmup_steps"),
        (None, {"chain_batch_size": 2}, Y, r"run\.chain_batch_size"),
        (None, {"thin": 2}, Y, r"run\.thin"),
        (None, {"keep": ["mu"]}, Y, r"run\.keep"),
        (None, {"num_samples": 90}, Y, "num_samples.*at least 120"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(
    stored, kernel, options, y, message
):
    before = content(stored)
    with pytest.raises(CheckpointError, match=message):
        run(kernel, store=stored, **options).resume(y)
    assert content(stored) == before


def content(path: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(path)): f.read_bytes()
        for f in path.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


def test_a_changed_draw_is_found_by_its_density(stored, tmp_path):
    """The stored lp is recomputed at stored positions."""
    path = tmp_path / "run.zarr"
    shutil.copytree(stored, path)
    file = path / "posterior" / "mu" / "c" / "0" / "4"
    values = np.frombuffer(file.read_bytes()[:-4]) + 1e-3
    file.write_bytes(values.tobytes() + checksum(values.tobytes()))
    with pytest.raises(CheckpointError, match="log-density at a stored position"):
        run(store=path).resume(Y)


def test_an_existing_store_is_not_run_over(stored):
    before = content(stored)
    with pytest.raises(CheckpointError, match="Call resume"):
        run(store=stored).run(Y)
    assert content(stored) == before


def test_two_writers_at_once_are_refused(tmp_path):
    path = tmp_path / "run.zarr"
    refused = []

    class Second(FixedHMC):
        def block(self, *args: Any, **options: Any) -> Any:
            if path.exists() and not refused:
                with pytest.raises(CheckpointError, match="another process") as error:
                    run(store=path).resume(Y)
                refused.append(error)
            return super().block(*args, **options)

    run(Second(TARGET, step_size=0.2, num_steps=3), store=path).run(Y)
    assert refused


def test_a_store_that_is_not_there_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match="nothing there"):
        run(store=tmp_path / "none.zarr").resume(Y)
    with pytest.raises(ConfigurationError, match="argument store"):
        run().resume(Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thin": 0}, "argument thin"),
        ({"thin": 121}, "argument thin"),
        ({"keep": "mu"}, "argument keep"),
        ({"keep": []}, "argument keep"),
        ({"n_jobs": 0}, "argument n_jobs"),
        ({"memory_limit": -1}, "argument memory_limit"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        run(**options)


def test_an_unknown_site_is_named_before_anything_runs(tmp_path):
    with pytest.raises(ConfigurationError, match="argument keep.*'nu'.*'theta'"):
        run(keep=["mu", "nu"], store=tmp_path / "run.zarr").run(Y)
    assert not (tmp_path / "run.zarr").exists()


def test_another_torch_is_warned_of(stored, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(stored, path)
    file = path / "zarr.json"
    tree = json.loads(file.read_bytes())
    tree["attributes"]["pyro_geo"]["torch_version"] = "1.0"
    file.write_text(json.dumps(tree))
    sign(path)
    with pytest.warns(FallbackWarning, match=r"torch 1\.0") as warned:
        run(store=path).resume(Y)
    assert warned[0].filename == __file__  # where the user called


# -- the Gibbs posterior ------------------------------------------------------------


def linear(x):
    return x @ pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))


X = numbers(40, 2)
GIBBS = GibbsModel(linear, lambda f, y: (f - y) ** 2)
TARGETS = X @ torch.tensor([1.0, -1.0], dtype=DOUBLE)


def gibbs(**options: Any) -> GibbsPosterior:
    settings: dict[str, Any] = {
        "betas": [0.5, 1.0],
        "num_particles": 16,
        "seed": 1,
        "progress_bar": False,
    }
    return GibbsPosterior(GIBBS, **(settings | options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "keep"),
    [("smc", "all"), pytest.param("langevin", "betas", marks=pytest.mark.slow)],
)
def test_a_path_of_temperatures_is_resumed_from_any_stage(
    tmp_path, monkeypatch, method, keep
):
    expected = gibbs(method=method, keep=keep).run(X, TARGETS)
    commit, stop, stopped = _run.RunStore.commit, 0, True
    while stopped:
        stop += 10
        path = tmp_path / f"{stop}.zarr"
        left = [stop]

        def counted(
            self: Any, *args: Any, left: list[int] = left, **options: Any
        ) -> None:
            commit(self, *args, **options)
            left[0] -= 1
            if left[0] == 0:
                raise Stop

        sampler = gibbs(method=method, keep=keep, store=path)
        with monkeypatch.context() as patched:
            patched.setattr(_run.RunStore, "commit", counted)
            try:
                sampler.run(X, TARGETS)
                stopped = False
            except Stop:
                pass
        if check_run(path)["num_draws"]:
            assert sampler.posterior is not None
        found = gibbs(method=method, keep=keep, store=path, seed=None)
        found = found.resume(X, TARGETS)
        assert len(found.stages) == len(expected.stages)
        for stage, other in zip(found.stages, expected.stages, strict=True):
            assert torch.equal(stage.q, other.q)
            assert torch.equal(stage.log_weights, other.log_weights)
            assert stage.ess == other.ess
        assert found.log_z == expected.log_z
        assert check_run(path)["finished"] is True
        stats = get_group(open_run(path), "stage_stats")
        assert stats is not None
        before = expected.stages[:-1]
        assert stats["beta"].values.tolist() == [stage.beta for stage in before]
    assert stop > 20


def test_a_gibbs_posterior_is_refused_other_data_and_other_losses(tmp_path):
    path = tmp_path / "run.zarr"
    posterior = gibbs(store=path).run(X, TARGETS)
    assert "particle" in report(path).read_text()
    before = content(path)
    for sampler, args, message in (
        (gibbs(store=path), (X, TARGETS + 1e-6), r"target\.data"),
        (gibbs(store=path, cess=0.8), (X, TARGETS), r"settings\.cess"),
        (gibbs(store=path, seed=3), (X, TARGETS), "seed"),
    ):
        with pytest.raises(CheckpointError, match=message):
            sampler.resume(*args)
    other = GibbsModel(linear, lambda f, y: 2 * (f - y) ** 2)
    with pytest.raises(CheckpointError, match=r"run\.loss\.code"):
        GibbsPosterior(
            other,
            betas=[0.5, 1.0],
            num_particles=16,
            seed=1,
            store=path,
            progress_bar=False,
        ).resume(X, TARGETS)
    with pytest.raises(CheckpointError, match="kernel.*FixedHMC"):
        run(store=path).resume(Y)
    with pytest.raises(CheckpointError, match="Call resume"):
        gibbs(store=path).run(X, TARGETS)
    with pytest.raises(ConfigurationError, match="argument store"):
        gibbs().resume(X, TARGETS)
    assert content(path) == before
    assert posterior.status == "finite_sample"


@pytest.mark.slow
def test_a_full_disk_keeps_the_finished_stages_of_a_path(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    expected = gibbs().run(X, TARGETS)
    write, left = _run.RunStore.write, [2 * 6]  # two stages of six variables

    def full(self: Any, *args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(self, *args)

    sampler = gibbs(store=path)
    with monkeypatch.context() as patched:
        patched.setattr(_run.RunStore, "write", full)
        with pytest.raises(CheckpointError, match=r"No space.*good up to stage 2"):
            sampler.run(X, TARGETS)
    assert sampler.posterior is not None
    assert len(sampler.posterior.stages) >= 2
    found = gibbs(store=path).resume(X, TARGETS)
    assert torch.equal(found.positions, expected.positions)
    assert torch.equal(found.log_weights, expected.log_weights)


@pytest.mark.slow
def test_an_interrupted_path_of_temperatures_adds_up_its_times(tmp_path, monkeypatch):
    path, expected = tmp_path / "run.zarr", gibbs().run(X, TARGETS)
    assert expected.plan is not None
    move, left = ParticleMover.move, [3 * len(expected.plan.betas) + 2]

    def interrupted(self: Any, *args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return move(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ParticleMover, "move", interrupted)
        with pytest.warns(ConvergenceWarning, match="interrupted.*resume") as warned:
            cut = gibbs(store=path).run(X, TARGETS)
    assert warned[0].filename == __file__
    assert len(cut.stages) == 2
    assert cut.attributes["interrupted"] == 1
    assert "ConvergenceWarning: the run was interrupted" in "".join(cut.notes)
    posterior = get_group(open_run(path), "posterior")
    assert posterior is not None
    assert posterior.attrs["notes"] == cut.attributes["notes"]
    found = gibbs(store=path).resume(X, TARGETS)
    assert torch.equal(found.positions, expected.positions)
    assert not found.interrupted
    assert found.notes == expected.notes
    # the pilot was not run again, but its time counts
    assert found.timings["pilot"] == cut.timings["pilot"]
    assert found.seconds > cut.seconds


# -- looking on ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_of_a_run_that_is_going_on(tmp_path):
    """Another process writes it while the run waits in the middle of a block."""
    path = tmp_path / "run.zarr"
    pages: list[str] = []

    class Watched(FixedHMC):
        def block(self, *args: Any, **options: Any) -> Any:
            if path.exists() and check_run(path)["num_draws"] >= 50 and not pages:
                command = [sys.executable, "-m", "pyro_geo.report", str(path)]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True
                )
                assert done.stdout.strip() == str(path.with_suffix(".html"))
                pages.append(path.with_suffix(".html").read_text())
            return super().block(*args, **options)

    run(Watched(effects, step_size=0.2, num_steps=3), store=path).run(Y)
    found = re.search(r"it has (\d+) of 120 draws per chain", pages[0])
    assert found is not None
    assert 50 <= int(found[1]) < 120
    assert "Watched on effects" in pages[0]
    final = report(path, tmp_path / "sub" / "final.html").read_text()
    assert "of 120 draws per chain" not in final


def test_a_report_before_the_first_draw(tmp_path):
    path = tmp_path / "run.zarr"
    with pytest.raises(Stop):
        run(stopping(-1), store=path).run(Y)
    assert "There are no draws" in report(path).read_text()


def test_a_report_of_no_store_is_an_error_of_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="nothing there"):
        report(tmp_path / "none.zarr")
    command = [sys.executable, "-m", "pyro_geo.report", str(tmp_path / "none.zarr")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not the store of a run" in done.stderr
    assert "Traceback" not in done.stderr
