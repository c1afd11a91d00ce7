"""Gibbs posteriors: closed forms, unbiased normalisers, and what breaks them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.engine import SequentialNoise
from pyro_geo.errors import (
    BetaRangeError,
    ConfigurationError,
    ConvergenceWarning,
    EmptyEnsembleError,
    LossRangeError,
    NotProperlyWeightedError,
    PrecisionWarning,
)
from pyro_geo.infer import MCMC, GibbsModel, GibbsPosterior, WeightedPosterior
from pyro_geo.infer.certificates import Codebook, bounds, certify, certify_exact
from pyro_geo.infer.gibbs.langevin import walk
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import Stage, Walk, anneal
from pyro_geo.infer.gibbs.pilot import Pilot, scout
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import open_run
from pyro_geo.testing.hmc import FixedHMC

DOUBLE = torch.float64
SCALE = 1.5


def linear(x: Tensor) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), SCALE).to_event(1))
    return x @ w


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (prediction - y) ** 2


def data(d: int = 2, n: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d, generator=generator, dtype=DOUBLE)
    x = torch.randn(n, d, generator=generator, dtype=DOUBLE)
    return x, x @ w + torch.randn(n, generator=generator, dtype=DOUBLE)


def random(*shape: int, seed: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


class Exact:
    """The Gibbs posterior of linear regression in closed form."""

    def __init__(self, x: Tensor, y: Tensor, beta: float) -> None:
        d = x.shape[1]
        prior = torch.eye(d, dtype=DOUBLE) / SCALE**2
        self.precision = prior + beta * x.mT @ x
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = beta * self.covariance @ x.mT @ y
        fit = y @ y - (x.mT @ y) @ self.mean
        logs = torch.logdet(prior) - torch.logdet(self.precision)
        self.log_z = float(0.5 * logs - 0.5 * beta * fit)
        residual = y - x @ self.mean
        spread = (x @ self.covariance * x).sum()
        self.loss = float(0.5 * (residual @ residual + spread))
        self.kl = -self.log_z - beta * self.loss


def posterior(beta: float = 1.0, seed: int = 1, **options: Any) -> WeightedPosterior:
    x, y = options.pop("data", data())
    options = {"num_particles": 256, "betas": [beta], "progress_bar": False, **options}
    model = GibbsModel(linear, squared)
    return GibbsPosterior(model, seed=seed, **options).run(x, y)


@pytest.mark.parametrize(
    ("d", "beta"),
    [
        (1, 0.5),
        *(
            pytest.param(d, beta, marks=pytest.mark.slow)
            for d, beta in [(2, 0.025), (2, 1.0), (5, 10.0), (3, 500.0)]
        ),
    ],
)
def test_closed_forms(d: int, beta: float) -> None:
    x, y = data(d)
    exact = Exact(x, y, beta)
    found = posterior(beta, data=(x, y), num_particles=1_000, cess=0.95, moves=2)
    # log Z over seeds has a standard deviation of 0.06 at most here
    assert found.log_z == pytest.approx(exact.log_z, abs=0.35)
    assert found.complexity == pytest.approx(exact.kl, abs=0.35)
    share = found.log_weights.softmax(0)
    q = found.positions[:, 0]
    sd = exact.covariance.diagonal().sqrt()
    z = (share @ q - exact.mean) / (sd / found.ess**0.5)
    assert z.abs().max() < 6  # particles are not quite independent
    losses = found.path()
    assert losses["beta"].is_monotonic_increasing
    assert losses["free_energy"].is_monotonic_increasing
    # free energy is concave in the temperature: its slope falls
    slope = losses["free_energy"].diff() / losses["beta"].diff()
    assert slope.iloc[-1] < slope.iloc[1]


def test_free_energy_and_complexity_are_one_identity() -> None:
    found = posterior()
    book = found.codebook("final")
    assert book.log_weights is not None
    share = book.log_weights.exp()
    tilt = found.tilt
    expected = -found.log_z - float(share @ tilt)
    assert float(book.kl(book.log_weights)) == pytest.approx(expected, rel=1e-12)
    assert found.complexity == pytest.approx(expected, rel=1e-12)


def test_hot_posterior_is_the_prior() -> None:
    found = posterior(1e-6)
    assert abs(found.complexity) < 1e-3
    assert float(found.positions.std()) == pytest.approx(SCALE, rel=0.1)


def runner(moves: int = 1) -> tuple[ParticleMover, Any, Tensor]:
    x, y = data()
    model = GibbsModel(linear, squared)
    target = model.target(x, y, dtype=DOUBLE)
    mover = ParticleMover(model, target, num_leapfrog=3)
    *_, pilot = scout(
        mover,
        Pilot.begin(model.prior_draws(target, 64, seed=0)),
        [1.0],
        cess=0.5,
        target_accept_prob=0.8,
        noise=SequentialNoise(0),
    )
    plan = pilot.plan(3, moves, ess_threshold=0.0)
    return mover, plan, model.prior_draws(target, 20_000, seed=1)


def z_of_normaliser(log_weights: Tensor, log_z: float) -> float:
    """How far independent estimates of the normaliser are from it on average."""
    ratios = (log_weights + math.log(len(log_weights)) - log_z).exp()
    return float((ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5))


def last_stage(mover: ParticleMover, plan: Any, q: Tensor) -> Stage:
    *_, end = anneal(mover, plan, Walk(q), SequentialNoise(7))
    assert end.stage is not None
    return end.stage


def test_without_resampling_each_particle_estimates_the_normaliser() -> None:
    mover, plan, q = runner()
    x, y = data()
    found = last_stage(mover, plan, q)
    z = z_of_normaliser(found.log_weights, Exact(x, y, 1.0).log_z)
    assert abs(z) < 4.5


class Unadjusted(ParticleMover):
    """A twin that accepts every move."""

    def _one_move(
        self, target: Any, rows: Tensor, step_size: float, scale: Tensor
    ) -> Tensor:
        rows = rows.clone()
        rows[:, -1] = 0.0
        return super()._one_move(target, rows, step_size, scale)


def test_an_unadjusted_move_is_caught() -> None:
    mover, plan, q = runner()
    x, y = data()
    twin = Unadjusted(mover.model, mover.target, 3)
    rough = plan._replace(step_sizes=tuple(2 * s for s in plan.step_sizes))
    log_z = Exact(x, y, 1.0).log_z
    assert abs(z_of_normaliser(last_stage(twin, rough, q).log_weights, log_z)) > 6
    assert abs(z_of_normaliser(last_stage(mover, rough, q).log_weights, log_z)) < 4.5


@pytest.mark.slow
def test_with_resampling_the_normaliser_is_unbiased() -> None:
    mover, plan, q = runner()
    x, y = data()
    plan = plan._replace(ess_threshold=0.9)
    logs = []
    for i, part in enumerate(q[:2_400].split(8)):
        *_, end = anneal(mover, plan, Walk(part), SequentialNoise(1_000, i))
        assert end.stage is not None
        logs.append(end.stage.log_z)
    ratios = (torch.tensor(logs, dtype=DOUBLE) - Exact(x, y, 1.0).log_z).exp()
    z = (ratios.mean() - 1) / (ratios.std() / len(ratios) ** 0.5)
    assert abs(float(z)) < 4.5


# -- three hypotheses, one particle, two temperatures: everything summed -------------

LOSSES = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)  # h x z
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
CHANCE = torch.tensor([0.7, 0.3], dtype=DOUBLE)  # of each example


def enumerated(kind: str, n: int = 2, ends: tuple[float, float] = (0.7, 2.0)) -> float:
    """E[p e^A] over data, prior draw and moves, exactly.

    `e^A = e^{-n r} / E e^{-n r}` has mean one at each hypothesis.
    """
    total = 0.0
    moment = (CHANCE * (-LOSSES).exp()).sum(1) ** n
    for sample in itertools.product(range(2), repeat=n):
        chance = float(CHANCE[list(sample)].prod())
        loss = LOSSES[:, list(sample)].sum(1)
        for start in range(3):
            first, end = ends
            if kind == "adapted":  # the particle's own loss chooses the temperature
                first = ends[0] if loss[start] > 1 else 1.8
            middle = _moved(loss, first, kind)[start]
            last = _moved(loss, end, kind)
            for i in range(3):
                for j in range(3):
                    way = chance * float(PRIOR[start] * middle[i] * last[i, j])
                    v = -first * float(loss[start]) - (end - first) * float(loss[i])
                    price = math.exp(v + end * float(loss[j]))
                    total += way * price * math.exp(-float(loss[j])) / float(moment[j])
    return total


def _moved(loss: Tensor, beta: float, kind: str) -> Tensor:
    """Metropolis with uniform proposals, row to column."""
    density = PRIOR * (-beta * loss).exp()
    accept = (density[None] / density[:, None]).clamp(max=1.0)
    if kind == "unadjusted":
        accept = torch.ones_like(accept)
    move = accept / 3
    return move + torch.diag(1 - move.sum(1))


def test_enumeration_of_a_frozen_path() -> None:
    assert enumerated("frozen") == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["adapted", "unadjusted"])
def test_enumeration_catches_the_twins(kind: str) -> None:
    assert enumerated(kind) > 1.01


# -- codebooks and certificates ------------------------------------------------------


def misclassified(prediction: Tensor, y: Tensor) -> Tensor:
    return ((prediction > 0) != (y > 0)).to(prediction)


@pytest.mark.slow
def test_certificate_holds_for_all_stages_together() -> None:
    x, y = data(2, 200)
    found = posterior(data=(x, y), betas=[0.05, 0.2, 1.0])
    book = found.codebook()
    assert len(book) == len(found.stages) * 256
    assert {0.05, 0.2, 1.0} <= {stage.beta for stage in found.stages}
    certificate = certify(book, misclassified, (x, y))
    # the same from losses evaluated by hand
    losses = ((book.q @ x.mT > 0) != (y > 0)).double()
    by_hand = certify(book, losses=losses)
    assert certificate.value == pytest.approx(by_hand.value, rel=1e-12)
    w = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    x_new = random(20_000, 2)
    y_new = x_new @ w + random(20_000, 1, seed=9)[:, 0]
    drawn = certificate.sample(100)
    risk = float(((drawn @ x_new.mT > 0) != (y_new > 0)).double().mean())
    assert risk < certificate.value < 0.5
    assert risk > (certificate.lower or 0)


@pytest.mark.slow
def test_random_labels_are_not_certified() -> None:
    generator = torch.Generator().manual_seed(3)
    failures = 0
    for seed in range(12):
        x = torch.randn(30, 2, generator=generator, dtype=DOUBLE)
        y = torch.randn(30, generator=generator, dtype=DOUBLE)
        found = posterior(0.5, seed, data=(x, y), num_particles=32)
        certificate = certify(found.codebook(), misclassified, (x, y))
        failures += certificate.value < 0.5
    assert failures <= 4  # more than 4 of 12 at 0.05 each: 1 in 5,000


@pytest.mark.slow
def test_a_mixture_of_prior_scales_is_a_codebook() -> None:
    x, y = data(2, 100)
    books = [posterior(seed=i, data=(x, y)).codebook() for i in range(3)]
    pooled = Codebook.pool(books)
    found = certify(pooled, misclassified, (x, y), predictor="single")
    parts = [certify(b, misclassified, (x, y), predictor="single") for b in books]
    best = min(parts, key=lambda part: part.value)
    dearer = best.complexity + math.log(3)
    assert found.value <= float(bounds.seeger(best.empirical_risk, dearer, 100, 0.05))


@pytest.mark.slow
def test_runs_reproduce_and_the_pilot_is_another_stream(monkeypatch) -> None:
    starts: list[Tensor] = []
    original = GibbsModel.prior_draws

    def recorded(self: GibbsModel, *rest: Any, **named: Any) -> Tensor:
        starts.append(original(self, *rest, **named))
        return starts[-1]

    monkeypatch.setattr(GibbsModel, "prior_draws", recorded)
    state = torch.get_rng_state()
    first, again, other = posterior(), posterior(), posterior(seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.positions, again.positions)
    assert first.log_z == again.log_z
    assert first.log_z != other.log_z
    pilot, run = starts[0], starts[1]
    assert not torch.equal(pilot, run[: len(pilot)])


@pytest.mark.slow
def test_particles_in_parts_are_the_same_to_rounding() -> None:
    whole = posterior(num_particles=50)
    parts = posterior(num_particles=50, chunk=7)
    torch.testing.assert_close(whole.positions, parts.positions)


def test_extension_keeps_the_price() -> None:
    found = posterior()
    x, y = data()
    longer = found.extend(5)
    assert longer.positions.shape == (256, 5, 2)
    assert longer.log_z == pytest.approx(found.log_z, rel=1e-12)
    assert longer.status == "finite_sample"
    exact = Exact(x, y, 1.0)
    share = longer.log_weights.softmax(0)
    mean = share @ longer.positions.flatten(0, 1)
    torch.testing.assert_close(mean, exact.mean, atol=0.1, rtol=0)
    book = longer.codebook("final")
    assert book.log_weights is not None
    assert float(book.kl(book.log_weights)) == pytest.approx(exact.kl, abs=0.5)


def test_what_others_have_moved_is_refused() -> None:
    found = posterior()
    moved = found.with_positions(found.positions + 0.01)
    assert moved.status == "heuristic"
    x, y = data()
    with pytest.raises(NotProperlyWeightedError):
        certify(moved.codebook(), misclassified, (x, y))


def interrupting(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = ParticleMover.move, [0]

    def move(self: ParticleMover, *rest: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise KeyboardInterrupt
        return original(self, *rest, **named)

    monkeypatch.setattr(ParticleMover, "move", move)


def test_an_interrupt_keeps_stages_and_the_planned_divisor(monkeypatch) -> None:
    full = posterior(betas=[0.1, 0.3, 1.0])
    pilots = 3 * len(full.plan.betas) if full.plan else 0
    interrupting(pilots + 3, monkeypatch)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        cut = posterior(betas=[0.1, 0.3, 1.0])
    assert len(cut.stages) == 2
    assert cut.interrupted
    assert torch.equal(cut.positions, full.stage(1).positions)
    price = cut.log_weights + cut.tilt
    book = cut.codebook()
    torch.testing.assert_close(book.log_p[:256], price - math.log(len(full.stages)))


def test_particles_without_a_loss_are_dropped_and_counted() -> None:
    def half_line(x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return x * torch.where(w > 0, w, torch.nan)

    model = GibbsModel(half_line, squared)
    x = torch.ones(5, dtype=DOUBLE)
    run = GibbsPosterior(
        model, betas=[1.0], num_particles=200, seed=0, progress_bar=False
    )
    found = run.run(x, x)
    assert (found.positions[:, 0][found.log_weights > -math.inf] > 0).all()
    # half of the prior's mass is gone, and the normaliser with it
    grid = torch.linspace(0, 12, 200_001, dtype=DOUBLE)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    exact = torch.trapezoid((density - 2.5 * (grid - 1) ** 2).exp(), grid).log()
    assert found.log_z == pytest.approx(float(exact), abs=0.6)
    assert found.killed > 0
    with pytest.raises(EmptyEnsembleError):
        GibbsPosterior(
            GibbsModel(half_line, lambda f, y: f * torch.nan),
            betas=[1.0],
            seed=0,
            progress_bar=False,
        ).run(x, x)


def test_another_stage_is_a_posterior_of_its_own() -> None:
    found = posterior(num_particles=40)
    first = found.stage(0)
    assert first.beta == found.stages[0].beta < found.beta
    assert torch.equal(first.log_weights, found.stages[0].log_weights)
    assert first.diagnostics()["stages"] == 1


def test_single_precision_is_warned_of() -> None:
    x, y = data()
    with pytest.warns(PrecisionWarning, match="single"):
        found = posterior(data=(x.float(), y.float()), dtype=torch.float32)
    with pytest.warns(PrecisionWarning, match="single"):
        certify(found.codebook(), misclassified, (x.float(), y.float()))


@pytest.mark.parametrize("betas", [[], [0.0], [1.0, 0.5], [math.nan]])
def test_temperatures_that_do_not_rise(betas: list[float]) -> None:
    with pytest.raises(BetaRangeError, match="betas"):
        GibbsPosterior(GibbsModel(linear, squared), betas=betas)


@pytest.mark.parametrize(
    "option",
    [
        {"num_particles": 0},
        {"pilot_particles": 1},
        {"cess": 1.0},
        {"ess_threshold": 2.0},
        {"keep": "some"},
        {"chunk": 0},
        {"method": "other"},
        {"guide": squared},
    ],
)
def test_options_out_of_range(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"argument {next(iter(option))}"):
        GibbsPosterior(GibbsModel(linear, squared), **option)


def test_a_wrong_option_names_the_nearest() -> None:
    options: dict[str, Any] = {"num_particle": 10}
    with pytest.raises(ConfigurationError, match="did you mean 'num_particles'"):
        GibbsPosterior(GibbsModel(linear, squared), **options)


@pytest.mark.slow
def test_times_are_charged_to_phases(tmp_path) -> None:
    found = posterior(num_particles=16)
    assert set(found.timings) == {"start", "compile", "pilot", "annealing"}
    assert found.timings["compile"].wall > 0
    assert found.seconds == pytest.approx(sum(t.wall for t in found.timings.values()))
    assert found.attributes["sampling_time"] == round(found.seconds, 3)
    pilot = found.timings["pilot"].wall
    assert found.attributes["pilot_time"] == round(pilot, 3)
    stored = posterior(num_particles=16, store=tmp_path / "run.zarr")
    assert set(stored.timings) - set(found.timings) == {"storing"}


@pytest.mark.slow
def test_attributes_are_those_of_every_run() -> None:
    x, y = data()
    model = GibbsModel(linear, squared)
    found = posterior(num_particles=16)
    chains = MCMC(
        FixedHMC(model.target(x, y, dtype=DOUBLE), step_size=0.1, num_steps=2),
        num_samples=2,
        warmup_steps=0,
        seed=1,
        progress_bar=False,
    ).run()
    own = {"num_chains", "warmup_steps", "rung", "num_steps", "step_size"}
    common = set(chains.attributes) - own
    assert {"model", "seed", "dtype", "torch_version", "notes"} <= common
    assert common <= set(found.attributes)
    for name in ("seed", "dim", "dtype", "interrupted", "pyro_version"):
        assert found.attributes[name] == chains.attributes[name]
    assert found.attributes["model"] == "linear"


def test_a_store_has_all_attributes_before_the_first_stage(tmp_path, monkeypatch):
    folder = tmp_path / "run.zarr"
    interrupting(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        posterior(num_particles=16, store=folder)
    monkeypatch.undo()
    first = get_group(open_run(folder), "posterior")
    assert first is not None
    own = {"num_draws", "beta", "ess", "log_z", "stages", "killed", "status"}
    expected = posterior(num_particles=16).attributes
    assert set(expected) - set(first.attrs) == {*own, "pilot_time"}
    assert first.attrs["num_particles"] == 16


def test_a_record_names_the_model_alike_before_and_after_a_stage(
    tmp_path, monkeypatch
) -> None:
    def model(x: Tensor) -> Tensor:
        return linear(x)

    folder = tmp_path / "run.zarr"
    gibbs = GibbsModel(model, squared)
    assert (gibbs.model_name, gibbs.model_title) == ("model", "test_sampler")
    options: Any = {"num_particles": 16, "betas": [1.0], "progress_bar": False}
    interrupting(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        GibbsPosterior(gibbs, seed=1, store=folder, **options).run(*data())
    monkeypatch.undo()
    first = get_group(open_run(folder), "posterior")
    assert first is not None
    found = GibbsPosterior(gibbs, seed=1, **options).run(*data())
    assert first.attrs["model"] == found.attributes["model"] == "test_sampler"


def test_unadjusted_paths_are_weighed_properly() -> None:
    mover, plan, q = runner()
    x, y = data()
    # whatever the step size: longer steps only make the weights vary more
    for factor in (0.3, 1.0, 1.6):
        steps = tuple(factor * s for s in plan.step_sizes)
        rougher = plan._replace(step_sizes=steps)
        walks = list(walk(mover, rougher, Walk(q), SequentialNoise(3)))
        for stage in (walks[0].stage, walks[-1].stage):
            assert stage is not None
            exact = Exact(x, y, stage.beta).log_z
            assert abs(z_of_normaliser(stage.log_weights, exact)) < 4.5


def test_langevin_posterior_certifies() -> None:
    x, y = data(2, 100)
    found = posterior(data=(x, y), method="langevin", betas=[0.02, 0.1])
    assert found.status == "finite_sample"
    certificate = certify(found.codebook(), misclassified, (x, y))
    assert certificate.empirical_risk < certificate.value < 0.8


# -- guides and free energies ----------------------------------------------------------


def test_importance_draws_of_a_good_guide() -> None:
    x, y = data()
    exact = Exact(x, y, 1.0)

    def guide(args: Any, targets: Any) -> None:
        wide = dist.MultivariateNormal(exact.mean, 1.5 * exact.covariance)
        pyro.sample("w", wide)

    found = posterior(
        data=(x, y), method="importance", guide=guide, num_particles=2_000
    )
    z = z_of_normaliser(found.log_weights, exact.log_z)
    assert abs(z) < 4.5
    book = found.codebook("final")
    # the tilt cancels: a price is prior over guide
    prior = torch.distributions.Normal(0.0, SCALE).log_prob(book.q).sum(1)
    normal = torch.distributions.MultivariateNormal(exact.mean, 1.5 * exact.covariance)
    expected = prior - normal.log_prob(book.q) - math.log(2_000)
    torch.testing.assert_close(book.log_p, expected)
    assert found.khat < 0.7
    certificate = certify(book, misclassified, (x, y))
    assert certificate.status == "finite_sample"
    assert set(found.timings) == {"start", "compile", "sampling"}


def test_importance_draws_on_a_constrained_site() -> None:
    def model(x: Tensor) -> Tensor:
        return x * pyro.sample("s", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))

    def guide(args: Any, targets: Any) -> None:
        pyro.sample("s", dist.LogNormal(torch.tensor(0.3), torch.tensor(0.8)))

    x = torch.ones(3, dtype=DOUBLE)
    found = GibbsPosterior(
        GibbsModel(model, squared),
        betas=[1.0],
        method="importance",
        guide=guide,
        num_particles=4_000,
        seed=2,
        progress_bar=False,
    ).run(x, 1.5 * x)
    grid = torch.linspace(1e-6, 30, 300_001, dtype=DOUBLE)
    prior = torch.distributions.Gamma(2.0, 1.0).log_prob(grid)
    exact = torch.trapezoid((prior - 1.5 * (grid - 1.5) ** 2).exp(), grid).log()
    z = z_of_normaliser(found.log_weights, float(exact))
    assert abs(z) < 4.5


def test_a_guide_without_a_density_is_refused() -> None:
    def guide(args: Any, targets: Any) -> None:
        pyro.sample("w", dist.Delta(torch.zeros(2, dtype=DOUBLE)).to_event(1))

    with pytest.raises(ConfigurationError, match="guide"):
        posterior(method="importance", guide=guide, num_particles=3)


@pytest.mark.slow
def test_free_energy_certifies_the_exact_posterior() -> None:
    x, y = data(2, 200)
    model = GibbsModel(linear, lambda f, y: torch.sigmoid(-4 * f * y.sign()))
    run = GibbsPosterior(model, betas=[0.5], seed=1, progress_bar=False)
    found = run.run(x, y)
    certificate = certify_exact(found, delta=0.05)
    free_energy = -found.log_z + math.log(40) * 2
    expected = (1 - math.exp(-free_energy / 200)) / (1 - math.exp(-0.5))
    assert certificate.value == pytest.approx(expected)
    assert certificate.empirical_risk < certificate.value
    with pytest.raises(LossRangeError):
        certify_exact(posterior())
    with pytest.raises(NotProperlyWeightedError):
        certify_exact(found.with_positions(found.positions))
