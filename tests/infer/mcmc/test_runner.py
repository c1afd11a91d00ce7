"""The batched runner: names, results, seeds, interrupts, starts and rungs."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_geo._compat.arviz import get_group
from pyro_geo.density import Target, ladder
from pyro_geo.engine import Noise
from pyro_geo.errors import (
    ConfigurationError,
    ConvergenceWarning,
    FallbackWarning,
    InitializationError,
    LayoutMismatchError,
    ModelError,
)
from pyro_geo.infer import DIMS, MCMC
from pyro_geo.testing.gates import check_gaussian
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import effects, numbers

Y = 2 * numbers(4, seed=2)


@pytest.fixture(scope="module")
def target():
    return Target.from_model(effects, Y, dtype=torch.float64)


def hmc(target, **options):
    return FixedHMC(target, **({"step_size": 0.2, "num_steps": 4} | options))


def run(kernel, num_samples=60, num_chains=2, *, seed: int | None = 0, **options):
    options = {"warmup_steps": 5, "progress_bar": False} | options
    fit = MCMC(kernel, num_samples, num_chains=num_chains, seed=seed, **options)
    return fit.run()


def group(idata, name) -> Any:
    """A group of an ArviZ result, which must be there."""
    found = get_group(idata, name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def fit(target):
    return run(hmc(target), num_chains=12)


# -- the result -------------------------------------------------------------------


def test_run_returns_itself(target):
    mcmc = MCMC(hmc(target), 3, 0, 2, progress_bar=False)
    assert mcmc.run() is mcmc
    assert mcmc.warmup_steps == 0
    assert MCMC(hmc(target), 3).num_chains == 1
    assert MCMC(hmc(target), 3).warmup_steps == 3
    assert MCMC(DIMS(target), 3).warmup_steps == 0


def test_samples_are_constrained_and_grouped_on_request(fit):
    flat, grouped = fit.get_samples(), fit.get_samples(group_by_chain=True)
    assert {k: tuple(v.shape) for k, v in flat.items()} == {
        "mu": (720,),
        "tau": (720,),
        "eta": (720, 4),
    }
    assert bool((flat["tau"] > 0).all())
    for name, value in grouped.items():
        assert torch.equal(value.flatten(0, 1), flat[name])
    torch.testing.assert_close(
        grouped["tau"].log(), fit.positions[..., fit.target.layout.sites["tau"].start]
    )


def test_some_samples_are_drawn_with_replacement(fit):
    some = fit.get_samples(num_samples=1000)
    assert some["eta"].shape == (1000, 4)
    assert bool(torch.isin(some["mu"], fit.get_samples()["mu"]).all())
    assert fit.get_samples(5, group_by_chain=True)["mu"].shape == (12, 5)


def test_diagnostics_have_the_shapes_of_the_sites(fit):
    found = fit.diagnostics()
    assert set(found) == {"mu", "tau", "eta", "divergences", "acceptance rate"}
    assert found["eta"]["n_eff"].shape == (4,)
    assert found["tau"]["r_hat"].shape == ()
    assert bool((found["eta"]["r_hat"] > 0.9).all())
    assert found["divergences"] == {f"chain {i}": [] for i in range(12)}
    rates = fit.stats["acceptance_rate"].mean(1).tolist()
    assert found["acceptance rate"] == pytest.approx(
        {f"chain {i}": rate for i, rate in enumerate(rates)}
    )
    table = fit.summary()
    assert list(table.index) == [*(f"eta[{i}]" for i in range(4)), "mu", "tau"]
    assert table.loc["eta[2]", "r_hat"] == float(found["eta"]["r_hat"][2])


def test_arviz_has_every_group_and_the_plates(fit):
    idata = fit.to_arviz()
    posterior = group(idata, "posterior")
    assert posterior["eta"].dims == ("chain", "draw", "group")
    expected = posterior["mu"] + posterior["tau"] * posterior["eta"]
    np.testing.assert_allclose(posterior["theta"].to_numpy(), expected, rtol=1e-12)
    assert posterior.attrs["seed"] == 0
    assert posterior.attrs["interrupted"] == 0
    assert posterior.attrs["model"] == "Target"
    observed = group(idata, "observed_data")
    assert observed["y"].dims == ("group",)
    np.testing.assert_array_equal(observed["y"], Y)


def test_log_likelihood_is_that_of_the_model(fit):
    found = group(fit.to_arviz(), "log_likelihood")["y"].to_numpy()
    samples = fit.get_samples(group_by_chain=True)
    for chain, draw in ((0, 0), (3, 17), (11, 59)):
        values = {name: value[chain, draw] for name, value in samples.items()}
        trace = poutine.trace(pyro.condition(effects, data=values)).get_trace(Y)
        trace.compute_log_prob()
        site: Any = trace.nodes["y"]
        expected = site["log_prob"]
        np.testing.assert_allclose(found[chain, draw], expected, rtol=1e-10)


def test_many_chains_stay_in_order(fit):
    stats = group(fit.to_arviz(log_likelihood=False), "sample_stats")
    assert stats.sizes["chain"] == 12
    np.testing.assert_array_equal(stats["lp"], fit.stats["lp"])
    np.testing.assert_array_equal(
        group(fit.to_arviz(), "posterior")["mu"],
        fit.get_samples(group_by_chain=True)["mu"],
    )


def test_the_report_is_one_file(fit, tmp_path):
    path = fit.report(
        tmp_path / "deep" / "report.html", tables={"Scores": [["nll"], [1.5]]}
    )
    text = path.read_text("utf-8")
    assert path == tmp_path / "deep" / "report.html"
    assert "FixedHMC" in text
    assert "Scores" in text


@pytest.mark.slow
def test_a_model_gives_its_name_and_site_names_may_have_slashes():
    def scoped():
        pyro.sample("a/b", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    fit = MCMC(FixedHMC(scoped), 20, 0, seed=0, progress_bar=False).run()
    assert fit.attributes["model"] == "scoped"
    with pytest.warns(FallbackWarning, match="a/b -> a.b"):
        found = fit.diagnostics()
    assert found["a/b"]["n_eff"].shape == (2,)


def test_there_are_no_draws_before_a_run(target):
    mcmc = MCMC(hmc(target), 3, progress_bar=False)
    for ask in (
        mcmc.get_samples,
        mcmc.summary,
        lambda: mcmc.target,
        lambda: mcmc.stats,
    ):
        with pytest.raises(ModelError, match="Call run first"):
            ask()


# -- seeds ------------------------------------------------------------------------


def test_draws_depend_on_the_seed_and_not_on_groups(target):
    one = run(hmc(target), num_chains=4).positions
    assert torch.equal(run(hmc(target), num_chains=4).positions, one)
    assert not torch.equal(run(hmc(target), num_chains=4, seed=1).positions, one)
    # other batch sizes change last bits, which a few transitions do not let grow
    for options in ({"num_chains": 4, "chain_batch_size": 2}, {"num_chains": 2}):
        other = run(hmc(target), **options).positions
        torch.testing.assert_close(other, one[: len(other)], rtol=1e-6, atol=1e-6)


def test_without_a_seed_torchs_generator_is_used(target):
    runs = []
    for seed in (5, 5, 6):
        pyro.set_rng_seed(seed)
        runs.append(run(hmc(target), 5, seed=None))
    assert torch.equal(runs[0].positions, runs[1].positions)
    assert not torch.equal(runs[0].positions, runs[2].positions)
    again = run(hmc(target), 5, seed=runs[2].run_seed)
    assert torch.equal(again.positions, runs[2].positions)


# -- warm-up ----------------------------------------------------------------------


class Tuned(FixedHMC):
    """Writes down what the runner asks for; the first group tunes for all others."""

    max_lanes = 2

    def __init__(self, model, **options):
        super().__init__(model, **options)
        self.asked: list[tuple[str, list[int], Any]] = []

    def start(self, target, group):
        self.asked.append(("start", list(group.chains), group.tuning))
        return super().start(target, group)

    def adapt(self, target, state, chains, noise):
        self.asked.append(("adapt", list(chains), noise.uniform(1).flatten().tolist()))
        return super().adapt(target, state, chains, noise)

    def block(self, target, state, chains, draws, noise):
        assert draws > 0
        return super().block(target, state, chains, draws, noise)

    def tuning(self, state) -> Any:
        return f"of {len(state.q)} chains"


def test_the_first_group_tunes_for_the_others(target):
    kernel = Tuned(target, step_size=0.2, num_steps=4)
    fit = run(kernel, 30, 4, warmup_steps=60)  # blocks of 25, 25 and 10
    assert fit.tuning == "of 2 chains"
    assert [(what, chains) for what, chains, _ in kernel.asked] == [
        (what, chains)
        for chains in ([0, 1], [2, 3])
        for what in ("start", "adapt", "adapt", "adapt")
    ]
    starts = [tuning for what, _, tuning in kernel.asked if what == "start"]
    assert starts == [None, "of 2 chains"]
    # each block of warm-up has noise of its own, and sampling has another
    seen = [u for what, _, noise in kernel.asked if what == "adapt" for u in noise]
    drawn = Noise(0).block(range(4), 0).uniform(1).flatten().tolist()
    assert len({*seen, *drawn}) == len(seen) + 4
    assert fit.warmup_num_steps == 120
    assert fit.num_steps == 150  # draws of both groups are made side by side
    assert fit.warmup_num_gradients == 240
    assert fit.num_gradients == 360
    kernel.asked.clear()
    run(kernel, 5, 2, warmup_steps=0)
    assert [what for what, *_ in kernel.asked] == ["start"]


def test_time_is_recorded_by_phase(target):
    fit = run(hmc(target), 30)
    assert set(fit.timings) == {"start", "warmup", "compile", "sampling"}
    for spent in fit.timings.values():
        assert spent.cpu >= 0
        assert spent.wall >= 0
    assert fit.seconds == pytest.approx(sum(s.wall for s in fit.timings.values()))
    assert fit.cpu_seconds == pytest.approx(sum(s.cpu for s in fit.timings.values()))
    # a graph that is there already costs nothing; a fresh one is charged to compile
    fresh = Target.from_model(effects, Y, dtype=torch.float64)
    assert run(hmc(fresh), 3).timings["compile"].wall > 0
    assert run(hmc(fresh), 3).timings["compile"].wall == 0


# -- what ends a run --------------------------------------------------------------


class Faulty(FixedHMC):
    """Raises in a block of its choice; sampling blocks have 25 draws."""

    fault: BaseException = KeyboardInterrupt()
    at = 2
    blocks = 0

    def block(self, target, state, chains, draws, noise):
        if self.blocks == self.at:
            raise self.fault
        self.blocks += 1
        return super().block(target, state, chains, draws, noise)


def faulty(target, fault, at):
    kernel = Faulty(target, step_size=0.2, num_steps=4)
    kernel.fault, kernel.at = fault, at
    return kernel


def test_an_interrupt_keeps_the_finished_blocks(target):
    whole = run(hmc(target), 100, warmup_steps=0).positions
    mcmc = MCMC(
        faulty(target, KeyboardInterrupt(), 2), 100, 0, 2, seed=0, progress_bar=False
    )
    with pytest.warns(ConvergenceWarning, match="50 draws per chain"):
        mcmc.run()
    assert mcmc.interrupted
    assert torch.equal(mcmc.positions, whole[:, :50])
    attrs = group(mcmc.to_arviz(), "posterior").attrs
    assert attrs["interrupted"] == 1
    assert attrs["num_draws"] == 50
    assert "interrupted" in attrs["notes"]


def test_an_interrupt_before_the_first_block_is_passed_on(target):
    kernel = faulty(target, KeyboardInterrupt(), 0)
    mcmc = MCMC(kernel, 100, 0, 2, progress_bar=False)
    with pytest.raises(KeyboardInterrupt):
        mcmc.run()
    with pytest.raises(ModelError):
        mcmc.get_samples()


def test_an_error_is_raised_and_the_finished_blocks_stay(target):
    mcmc = MCMC(
        faulty(target, RuntimeError("a cable"), 1), 100, 0, 2, progress_bar=False
    )
    with pytest.raises(RuntimeError, match="a cable"):
        mcmc.run()
    assert mcmc.positions.shape == (2, 25, 6)
    assert mcmc.stats["lp"].shape == (2, 25)
    assert not mcmc.interrupted


def test_a_second_run_starts_afresh(target):
    kernel = faulty(target, KeyboardInterrupt(), 1)
    mcmc = MCMC(kernel, 50, 0, 2, seed=0, progress_bar=False)
    with pytest.warns(ConvergenceWarning):
        mcmc.run()
    kernel.at = -1
    mcmc.run()
    assert not mcmc.interrupted
    assert mcmc.positions.shape[1] == 50
    assert mcmc.notes == []


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_bar_can_be_turned_off(target, capsys, shown):
    run(hmc(target), 30, progress_bar=shown)
    text = capsys.readouterr().err
    for part in ("60/60", "warm up", "sample", "acceptance=", "diverging=0"):
        assert (part in text) == shown


# -- starts -----------------------------------------------------------------------


def test_unconstrained_starts_are_followed(target):
    start = {
        "mu": torch.tensor([1.0, -1.0]),
        "tau": torch.tensor([0.5, -0.5]),
        "eta": numbers(2, 4),
    }
    fit = run(
        hmc(target, step_size=1e-6),
        1,
        warmup_steps=0,
        initial_params=start,
        initial_space="unconstrained",
    )
    torch.testing.assert_close(
        fit.positions[:, 0], target.layout.flatten(start), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"mu": torch.zeros(3)}, ConfigurationError, "initial_params, site 'mu'"),
        ({"eta": torch.zeros(3)}, ConfigurationError, "leading axis of chains"),
        (
            {"mu": torch.tensor([0.0, torch.nan])},
            InitializationError,
            "site 'mu', chain 1",
        ),
        ({"other": torch.zeros(2)}, LayoutMismatchError, "other"),
    ],
)
def test_bad_starts_are_named(target, change, error, match):
    start = {"mu": torch.zeros(2), "tau": torch.zeros(2), "eta": torch.zeros(2, 4)}
    with pytest.raises(error, match=match):
        run(hmc(target), initial_params=start | change, initial_space="unconstrained")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"num_samples": 2.5}, "num_samples"),
        ({"num_chains": 0}, "num_chains"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"chain_batch_size": 0}, "chain_batch_size"),
        ({"kernel": 3}, "kernel"),
        ({"kernel": effects}, "kernel"),
    ],
)
def test_bad_calls_are_refused_at_construction(target, options, name):
    call = {"kernel": hmc(target), "num_samples": 3} | options
    with pytest.raises(ConfigurationError) as error:
        MCMC(**call)
    text = str(error.value)
    assert f"argument {name}" in text
    assert all(part in text for part in (": found ", ", expected ", ". "))


def test_a_finished_target_keeps_its_dtype(target):
    with pytest.raises(ConfigurationError, match="argument dtype"):
        run(hmc(target), dtype=torch.float32)
    assert run(hmc(target), 2, dtype=torch.float64).positions.dtype == torch.float64


# -- rungs ------------------------------------------------------------------------


def test_the_rung_is_chosen(target, monkeypatch):
    monkeypatch.setattr(ladder, "compile_graph", lambda graph, examples: graph)
    kernel = hmc(Target.from_model(effects, Y, dtype=torch.float64))
    chosen = {True: "compiled", False: "traced", "auto": "traced"}
    for compile, expected in chosen.items():
        assert run(kernel, 30, compile=compile).rung == expected


def test_models_that_cannot_be_mapped_run_one_chain_at_a_time():
    def branch(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        scale = 1.0 if x > 0 else 2.0
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x, scale), obs=y)

    kernel = FixedHMC(branch, step_size=0.3, num_steps=2)
    with pytest.warns(FallbackWarning, match="one at a time"):
        fit = MCMC(kernel, 5, 0, 2, seed=0, progress_bar=False).run(torch.zeros(4))
    assert fit.rung == "sequential"
    assert "one at a time" in str(fit.attributes["notes"])
    assert fit.to_arviz() is not None


# -- draws ------------------------------------------------------------------------

COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 2.0]], dtype=torch.float64)


def test_a_correlated_gaussian():
    # First and second moments, R-hat and effective size; false alarms below 1e-4.
    precision = torch.linalg.inv(COVARIANCE)
    normal = Target.from_potential(
        lambda q: 0.5 * q @ precision @ q, 2, dtype=torch.float64
    )
    kernel = FixedHMC(normal, step_size=0.7, num_steps=2)
    fit = run(kernel, 300, 200, warmup_steps=50)
    check_gaussian(fit.positions, torch.zeros(2), COVARIANCE, false_alarm=1e-4)


def test_an_unknown_compile_is_refused():
    kernel = FixedHMC(Target.from_potential(lambda q: q.square().sum(), 1))
    wrong: Any = "yes"
    with pytest.raises(ConfigurationError, match="argument compile.*'yes'"):
        MCMC(kernel, 10, compile=wrong)


def test_a_step_down_the_ladder_warns_once_in_a_run():
    def model(y):
        x = pyro.sample("x", dist.Normal(0.0, float(y.std())))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    target = Target.from_model(model, torch.tensor([0.0, 1.0, 3.0]))
    fit = MCMC(FixedHMC(target), 10, 5, seed=0, progress_bar=False)
    with pytest.warns(FallbackWarning, match="constants"):
        fit.run()
    # warnings are errors here
    target.value_and_grad(torch.zeros(2, 1))
    target.hvp(torch.zeros(2, 1), torch.ones(2, 1))
