"""HMC through the batched runner: purity, seeds, groups, results, errors, warnings."""

import copy
import dataclasses
import inspect
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils import _pytree as pytree

from pyro_geo.density import Target
from pyro_geo.engine import ChainGroup, Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.errors import (
    ConfigurationError,
    ConvergenceWarning,
    DivergenceWarning,
    InitializationError,
    ModelError,
    PyroGeoWarning,
)
from pyro_geo.geometry.matrices import Dense, Diagonal, LowRank
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.mcmc.hmc.metric import kind_of
from pyro_geo.infer.mcmc.hmc.options import HMCOptions
from pyro_geo.testing.gates import check_gaussian
from tests.cases import effects, numbers

COVARIANCE = torch.tensor(
    [[1.0, 0.9, 0.0], [0.9, 2.0, -0.3], [0.0, -0.3, 0.25]], dtype=torch.float64
)
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)


def potential(q):
    moved = q - MEAN.to(q)
    return 0.5 * (moved @ PRECISION.to(q) * moved).sum(-1)


@pytest.fixture(scope="module")
def target():
    """A correlated normal density, shared, so that it is traced once."""
    return Target.from_potential(potential, 3, dtype=torch.float64)


def run(model, num_samples=20, num_chains=4, *, seed=0, runner=None, **options) -> Any:
    settings = {"warmup_steps": 60, "compile": False, "progress_bar": False}
    kernel = HMC(model, **options)
    fit = MCMC(
        kernel,
        num_samples,
        num_chains=num_chains,
        seed=seed,
        **(settings | (runner or {})),
    )
    return fit.run()


def tensors(tree) -> list[torch.Tensor]:
    """All tensors in a state, those inside a warm-up under way included."""
    found = []
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += tensors(list(vars(leaf).values()))
    return found


# -- what comes out -----------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dense", "diagonal", "low_rank"])
def test_draws_are_from_the_density(target, metric):
    """All first and second moments, R-hat, effective size; false alarms below 1e-4."""
    fit = run(target, 100, 60, metric=metric, runner={"warmup_steps": 150})
    check_gaussian(fit.positions, MEAN, COVARIANCE, false_alarm=1e-4)
    assert kind_of(fit.tuning.metric) == metric
    assert fit.attributes["metric"] == metric
    rate = float(fit.stats["acceptance_rate"].mean())
    assert 0.65 < rate  # 1 where the metric is that of a normal density
    assert fit.notes == []


def test_the_dense_metric_is_the_covariance(target):
    """Draws and scores of a normal density determine it but for the ridge."""
    fit = run(target, 5, 32, runner={"warmup_steps": 150})
    assert isinstance(fit.tuning.metric, Dense)
    torch.testing.assert_close(
        fit.tuning.metric.matrix, COVARIANCE, rtol=1e-3, atol=1e-3
    )
    assert float(fit.tuning.step_size) > 0.3
    assert 0.5 < float(fit.tuning.trajectory_length) < 4


def test_single_precision():
    target = Target.from_potential(potential, 3, dtype=torch.float32)
    fit = run(target, 100, 60, runner={"warmup_steps": 150})
    assert fit.positions.dtype == torch.float32
    assert {s.dtype for s in fit.stats.values() if s.is_floating_point()} == {
        torch.float32
    }
    check_gaussian(fit.positions, MEAN, COVARIANCE, false_alarm=1e-4)


def test_the_statistics_hold_together(target):
    fit = run(target, 30)
    stats = fit.stats
    assert tuple(stats) == HMC.statistics
    lp = target.log_prob(fit.positions.flatten(0, 1)).view(4, 30)
    torch.testing.assert_close(stats["lp"], lp)
    rate = (-stats["energy_error"]).exp().clamp(max=1)
    torch.testing.assert_close(stats["acceptance_rate"], rate)
    # total energy at the start of a transition is above the potential there
    assert bool((stats["energy"][:, 1:] > -stats["lp"][:, :-1]).all())
    assert not bool(stats["diverging"].any())
    assert bool((stats["n_steps"] == stats["n_steps"][:1]).all())
    assert len(stats["n_steps"][0].unique()) > 1  # the lengths are jittered
    assert bool((stats["step_size"] == fit.tuning.step_size).all())
    assert set(fit.timings) == {"start", "warmup", "compile", "sampling"}
    attributes = fit.attributes
    assert attributes["step_size"] == float(fit.tuning.step_size)
    assert attributes["trajectory_length"] == float(fit.tuning.trajectory_length)
    assert attributes["restarted_chains"] == 0
    assert "hoffman2021chees" in str(attributes["citation"])
    assert fit.num_gradients == 4 * fit.num_steps
    assert 0 < fit.warmup_num_steps < fit.num_steps


def test_gradients_are_counted_with_those_evaluated_for_nothing(target):
    options: Any = {"step_size": 0.3, "trajectory_length": 0.9, "jitter": 0.0}
    one = run(target, 10, unroll=1, runner={"warmup_steps": 0}, **options)
    four = run(target, 10, unroll=4, runner={"warmup_steps": 0}, **options)
    assert bool((one.stats["n_steps"] == 3).all())
    assert (one.num_steps, four.num_steps) == (30, 40)
    torch.testing.assert_close(one.positions, four.positions, rtol=1e-9, atol=1e-9)


def test_given_tuning_is_used_without_warm_up(target):
    fit = run(
        target, 20, step_size=0.4, trajectory_length=1.2, runner={"warmup_steps": 0}
    )
    assert float(fit.tuning.step_size) == pytest.approx(0.4)
    assert float(fit.tuning.trajectory_length) == pytest.approx(1.2)
    assert fit.warmup_num_steps == 0
    # with warm-up, what is given stays
    fit = run(target, 5, step_size=0.4, trajectory_length=1.2)
    assert float(fit.tuning.step_size) == pytest.approx(0.4)
    assert float(fit.tuning.trajectory_length) == pytest.approx(1.2)


# -- seeds and blocks -----------------------------------------------------------------


def test_the_seed_rules(target):
    one = run(target)
    again = run(target)
    assert torch.equal(one.positions, again.positions)
    assert torch.equal(one.tuning.step_size, again.tuning.step_size)
    assert not torch.equal(run(target, seed=1).positions, one.positions)


def test_blocks_are_pure(target):
    kernel, traced = HMC(target), target.with_rung("traced")
    chains, noise = range(4), Noise(0)
    streams = noise.region(1).block(chains, 0)
    start = kernel.start(traced, ChainGroup(chains, 4, 10, 60, streams))
    state = start.state
    for index in (1, 2, 3):  # the approach, the windows and the end
        before = [t.clone() for t in tensors(state)]
        parts = copy.deepcopy(state.adaptation)
        block = noise.region(1).block(chains, index)
        first = kernel.adapt(traced, state, chains, block)
        for now, then in zip(tensors(state), before, strict=True):
            assert torch.equal(now, then)
        assert state.adaptation.iteration == parts.iteration
        assert state.adaptation.step == parts.step
        assert state.adaptation.length == parts.length
        block = noise.region(1).block(chains, index)
        second = kernel.adapt(traced, state, chains, block)
        for a, b in zip(tensors(first.state), tensors(second.state), strict=True):
            assert torch.equal(a, b)
        assert first.iterations == second.iterations == min(25 * index, 60)
        state = first.state
    assert first.finished
    draws = [
        kernel.block(traced, state, chains, 5, noise.block(chains, 0)) for _ in range(2)
    ]
    assert torch.equal(draws[0].q, draws[1].q)
    assert state.made == 0
    assert draws[0].state.made == 5


class Faulty(HMC):
    """Is interrupted in its second block of draws."""

    blocks = 0

    def block(self, target, state, chains, draws, noise):
        self.blocks += 1
        if self.blocks == 2:
            raise KeyboardInterrupt
        return super().block(target, state, chains, draws, noise)


def test_an_interrupt_keeps_the_finished_blocks(target):
    whole = run(target, 100)
    fit = MCMC(Faulty(target), 100, 60, 4, seed=0, compile=False, progress_bar=False)
    with pytest.warns(ConvergenceWarning, match="50 draws per chain"):
        fit.run()
    assert fit.interrupted
    assert torch.equal(fit.positions, whole.positions[:, :50])


def test_the_bar_shows_what_a_user_looks_for(target, capsys):
    run(target, 60, runner={"progress_bar": True})
    text = capsys.readouterr().err
    for part in ("warm up", "sample", "diverging=0", "acceptance=", "step_size="):
        assert part in text
    assert "60/60" in text
    assert "240/240" in text


# -- groups of chains ---------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(target):
    return run(target, 60, 300, runner={"warmup_steps": 100})


def test_more_chains_take_the_tuning_of_the_first(target, crowd):
    """Moments of each group by itself; false alarms below 1e-4."""
    assert crowd.positions.shape == (300, 60, 3)
    steps = crowd.stats["step_size"]
    assert bool((steps == steps[0, 0]).all())
    for group in (crowd.positions[:150], crowd.positions[150:]):
        check_gaussian(group, MEAN, COVARIANCE, false_alarm=1e-4)


@pytest.mark.slow
def test_a_later_chain_depends_on_seed_index_and_tuning_alone(target, crowd):
    """Two of them alone are what they are among a hundred and fifty, to rounding."""
    kernel, traced, chains = HMC(target), target.with_rung("traced"), [170, 299]
    start, *_, warm = warm_up(
        kernel,
        lambda: traced,
        chains,
        num_samples=60,
        num_chains=300,
        warmup_steps=100,
        noise=Noise(0, region=1),
        tuning=crowd.tuning,
    )
    assert warm.state.tuning is crowd.tuning
    assert start.state.burn_in == 50  # half the warm-up
    assert warm.state.burn_in == warm.state.made == 0
    block = kernel.block(traced, warm.state, chains, 50, Noise(0).block(chains, 0))
    torch.testing.assert_close(
        block.q, crowd.positions[chains, :50], rtol=1e-6, atol=1e-6
    )


def test_the_first_group_may_be_made_smaller(target):
    fit = run(target, 40, 64, runner={"chain_batch_size": 32, "warmup_steps": 100})
    alone = run(target, 40, 32, runner={"warmup_steps": 100})
    steps = fit.stats["step_size"]
    assert bool((steps == steps[0, 0]).all())
    # 64 chains share starts and 32 do not, so the groups are others
    assert fit.superchains == 16
    assert alone.superchains is None
    check_gaussian(fit.positions, MEAN, COVARIANCE, false_alarm=1e-4)


def test_many_chains_share_starts(target):
    fixed: dict[str, Any] = {"step_size": 1e-7, "trajectory_length": 1e-7}
    runner: dict[str, Any] = {"warmup_steps": 0}
    fit = run(target, 2, 64, **fixed, runner=runner)
    assert fit.superchains == 16
    starts = fit.positions[:, 0].view(16, 4, 3)
    assert float((starts - starts[:, :1]).abs().max()) < 1e-4
    assert float((starts[1:, 0] - starts[:-1, 0]).abs().max(-1).values.min()) > 1e-2
    assert "nested_r_hat" in fit.summary()
    for chains in (30, 60):
        assert run(target, 2, chains, **fixed, runner=runner).superchains is None
    # starts of the user's own are nobody else's affair
    own = {"q": numbers(64, 3)}
    fit = run(target, 2, 64, **fixed, runner=runner | {"initial_params": own})
    assert fit.superchains is None
    torch.testing.assert_close(fit.positions[:, 0], own["q"], rtol=0, atol=1e-4)


# -- the choice of a metric ---------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "draws", "expected"),
    [
        (100, 1000, "dense"),
        (100, 999, "low_rank"),
        (101, 10_000, "low_rank"),
        (5, 50, "dense"),
        (5, 49, "diagonal"),
        (1000, 320, "low_rank"),
        (1000, 319, "diagonal"),
    ],
)
def test_auto_takes_what_warm_up_can_determine(target, dim, draws, expected):
    assert HMC(target).options.kind(dim, draws) == expected
    named = HMC(target, metric="diagonal")
    assert named.options.kind(dim, draws) == "diagonal"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("diagonal", Diagonal), ("dense", Dense), ("low_rank", LowRank)],
)
def test_a_metric_that_is_named_is_used(target, metric, expected):
    fit = run(target, metric=metric)
    assert isinstance(fit.tuning.metric, expected)


def test_the_fewer_chains_the_longer_the_warm_up(target):
    steps = [HMC(target).default_warmup(500, chains) for chains in (1, 4, 16, 256)]
    assert steps == sorted(steps, reverse=True)
    assert MCMC(HMC(target), 500, num_chains=64).warmup_steps == steps[2]


# -- errors and warnings ------------------------------------------------------------


def parts(error) -> None:
    text = str(error.value)
    assert all(part in text for part in (": found ", ", expected ", ". "))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", 0.0),
        ("step_size", -1.0),
        ("step_size", float("nan")),
        ("trajectory_length", 0.0),
        ("trajectory_length", float("nan")),
        ("metric", "full"),
        ("target_accept_prob", 0.0),
        ("target_accept_prob", 1.0),
        ("jitter", -0.1),
        ("jitter", 1.0),
        ("max_leapfrog", 0),
        ("max_leapfrog", 2.5),
        ("unroll", 0),
        ("unroll", 17),
        ("unroll", "all"),
    ],
)
def test_bad_options_are_refused_at_construction(target, name, value):
    with pytest.raises(ConfigurationError, match=f"argument {name}") as error:
        HMC(target, **{name: value})
    parts(error)


def test_an_unknown_option_is_refused_with_the_nearest_name(target):
    wrong: Any = {"target_accept": 0.9}
    with pytest.raises(ConfigurationError) as error:
        HMC(target, **wrong)
    assert str(error.value) == (
        "HMC(...) has no option 'target_accept'; did you mean 'target_accept_prob'?"
    )
    wrong = {"num_chain": 4}
    with pytest.raises(ConfigurationError, match=r"MCMC\(.*did you mean 'num_chains'"):
        MCMC(HMC(target), 10, **wrong)


def test_every_option_is_a_named_keyword():
    parameters = inspect.signature(HMC).parameters
    assert {field.name for field in dataclasses.fields(HMCOptions)} < set(parameters)
    kinds = {parameter.kind for parameter in list(parameters.values())[1:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_bad_counts_are_refused_at_construction(target):
    for name, value in (("num_chains", 0), ("num_samples", 0), ("warmup_steps", -1)):
        options: Any = {"num_samples": 5} | {name: value}
        with pytest.raises(ConfigurationError, match=f"argument {name}") as error:
            MCMC(HMC(target), **options)
        parts(error)


def test_a_model_without_latent_sites_is_refused():
    def nothing(y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ModelError) as error:
        MCMC(HMC(nothing), 5, 5, progress_bar=False).run(torch.zeros(3))
    parts(error)


def test_a_start_without_a_density_names_the_site():
    y = torch.tensor([0.0, torch.nan, 1.0], dtype=torch.float64)
    with pytest.raises(InitializationError, match="site 'y'.*1 of 3 not finite") as e:
        MCMC(HMC(effects), 5, 5, progress_bar=False, dtype=torch.float64).run(y)
    parts(e)


def test_later_chains_without_a_density_are_named():
    """The density is finite only beside the first chains' starts."""

    def narrow(q):
        far = (q - 1.0).abs().sum(-1) > 0.01
        return torch.where(far, torch.inf, 0.0 * q.sum(-1))

    target = Target.from_potential(narrow, 2, dtype=torch.float64)
    kernel, traced = HMC(target), target.with_rung("traced")
    ones = torch.ones(4, 2, dtype=torch.float64)
    noise = Noise(0).block(range(4), 0)
    group = ChainGroup(range(4), 300, 5, 0, noise, initial=ones)
    first = kernel.start(traced, group)
    later = ChainGroup(
        range(150, 154), 300, 5, 0, noise, tuning=kernel.tuning(first.state)
    )
    with pytest.raises(InitializationError, match="chain 150") as error:
        kernel.start(traced, later)
    parts(error)


def test_divergent_transitions_and_stuck_chains_warn(target):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = run(target, 10, 3, step_size=1e4, jitter=0.0, runner={"warmup_steps": 0})
    told = [w.message for w in caught if isinstance(w.message, PyroGeoWarning)]
    assert [type(message) for message in told] == [
        DivergenceWarning,
        ConvergenceWarning,
    ]
    assert "3 of 3 chains): found 30 of 30 transitions" in str(told[0])
    assert "chains never moved" in str(told[1])
    assert "0, 1, 2" in str(told[1])
    assert bool(fit.stats["diverging"].all())
    assert fit.notes == [f"{type(m).__name__}: {m}" for m in told]
    found = fit.diagnostics()
    assert found["divergences"]["chain 2"] == list(range(10))
    assert found["acceptance rate"]["chain 0"] == 0.0
