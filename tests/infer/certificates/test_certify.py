"""Certificates on finite sets of hypotheses, where everything can be summed."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    EmptyEnsembleError,
    LossRangeError,
    NotProperlyWeightedError,
    PriorDependsOnDataError,
    ShapeError,
)
from pyro_geo.infer import certificates
from pyro_geo.infer.certificates import (
    Certificate,
    Codebook,
    Ledger,
    bounds,
    certify_holdout,
    certify_plugin,
    check_disjoint,
    split_prior,
)

PREDICTORS = ("retilted", "single")

# the hypotheses of this file are fixed, and so are their weights
certify = functools.partial(certificates.certify, fixed_before_data=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hypotheses(m: int = 40, n: int = 100, seed: int = 0) -> tuple[Codebook, Tensor]:
    """A prior of equal weights, and coin flips of different chances."""
    chance = torch.linspace(0.05, 0.9, m, dtype=torch.float64)[:, None]
    uniform = torch.rand(m, n, generator=generator(seed), dtype=torch.float64)
    book = Codebook(torch.arange(m)[:, None].double(), -torch.full((m,), m).log())
    return book, (uniform < chance).double()


def test_complexity_by_hand() -> None:
    book, _ = hypotheses(4)
    rho = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    expected = sum(float(p) * math.log(float(p) * 4) for p in rho if p > 0)
    assert float(book.kl(rho.log())) == pytest.approx(expected)
    assert float(book.kl(2)) == pytest.approx(math.log(4))
    assert float(book.kl(book.log_p)) == pytest.approx(0.0, abs=1e-15)


def test_retilting_is_the_minimiser_of_complexity_and_cost() -> None:
    book, losses = hypotheses(6)
    cost = 3.0 * losses.mean(1)
    best = book.retilted(cost)
    value = float(book.kl(best) + best.exp() @ cost)
    assert value == pytest.approx(-float((book.log_p - cost).logsumexp(0)))
    for seed in range(20):
        other = torch.randn(6, generator=generator(seed)).double().log_softmax(0)
        assert float(book.kl(other) + other.exp() @ cost) >= value


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_certificate_is_the_bound_of_its_own_figures(predictor) -> None:
    book, losses = hypotheses()
    found = certify(book, losses=losses, predictor=predictor)
    assert found.log_rho is not None
    share = found.log_rho.exp()
    assert float(share.sum()) == pytest.approx(1.0)
    risk, k = float(share @ losses.mean(1)), float(book.kl(found.log_rho))
    assert found.empirical_risk == pytest.approx(risk)
    assert found.complexity == pytest.approx(k)
    assert found.value == float(bounds.seeger(risk, k, 100, 0.05))
    assert found.lower is not None
    assert found.lower < risk < found.value
    assert found.status == "unverified"  # nothing has seen where they come from


def test_no_other_weights_of_a_grid_are_better() -> None:
    book, losses = hypotheses(3, 50)
    found = certify(book, losses=losses)
    ticks = torch.linspace(0, 1, 41, dtype=torch.float64)
    a, b = torch.meshgrid(ticks, ticks, indexing="ij")
    rho = torch.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
    rho = rho[(rho >= -1e-12).all(1)].clamp(min=0.0)
    value = bounds.seeger(rho @ losses.mean(1), book.kl(rho.log()), 50, 0.05)
    assert found.value <= float(value.min()) + 1e-9


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_certificate_is_monotone_and_symmetric(predictor) -> None:
    book, losses = hypotheses()
    value = certify(book, losses=losses, predictor=predictor).value
    order = torch.randperm(len(book), generator=generator(3))
    shuffled = Codebook(book.q[order], book.log_p[order])
    again = certify(shuffled, losses=losses[order], predictor=predictor).value
    assert again == pytest.approx(value, rel=1e-9)
    surer = certify(book, losses=losses, predictor=predictor, delta=0.01)
    assert surer.value > value
    twice = losses.repeat(1, 2)
    assert certify(book, losses=twice, predictor=predictor).value < value


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_dropping_a_particle_never_helps(predictor) -> None:
    book, losses = hypotheses(12)
    value = certify(book, losses=losses, predictor=predictor).value
    for i in range(12):
        log_p = book.log_p.clone()
        log_p[i] = -math.inf
        fewer = Codebook(book.q, log_p)
        spoilt = losses.clone()
        spoilt[i] = math.nan  # what is dropped is not looked at
        found = certify(fewer, losses=spoilt, predictor=predictor)
        assert found.value >= value - 1e-12


def test_a_codebook_pooled_with_itself_is_itself() -> None:
    book, losses = hypotheses()
    value = certify(book, losses=losses).value
    pooled = Codebook.pool([book, book])
    assert len(pooled) == 80
    found = certify(pooled, losses=losses.repeat(2, 1))
    assert found.value == pytest.approx(value, rel=1e-9)


def test_pooling_costs_at_most_the_logarithm_of_the_number() -> None:
    book, losses = hypotheses()
    poor = Codebook(book.q, book.log_p)
    pooled = Codebook.pool([book, poor, poor])
    bad = torch.ones_like(losses)
    rows = torch.cat([losses, bad, bad])
    found = certify(pooled, losses=rows, predictor="single")
    alone = certify(book, losses=losses, predictor="single")
    assert found.complexity == pytest.approx(alone.complexity + math.log(3))


def test_union_costs_exactly_the_logarithm_of_the_number() -> None:
    book, losses = hypotheses()
    parts = [
        certify(book, losses=losses, predictor="single", delta=0.05 / 4)
        for _ in range(4)
    ]
    whole = Certificate.union(parts)
    assert whole.delta == pytest.approx(0.05)
    assert whole.looks == 4
    expected = bounds.seeger(
        whole.empirical_risk, whole.complexity + math.log(4), 100, 0.05
    )
    assert whole.value == pytest.approx(float(expected), rel=1e-12)


def test_range_is_scaled_and_clipped() -> None:
    book, losses = hypotheses()
    value = certify(book, losses=losses).value
    scaled = certify(book, losses=2 + 3 * losses, loss_range=(2.0, 5.0))
    assert scaled.value == pytest.approx(2 + 3 * value)
    assert scaled.lower == pytest.approx(
        2 + 3 * (certify(book, losses=losses).lower or 0)
    )
    with pytest.raises(LossRangeError, match="clip"):
        certify(book, losses=1.5 * losses)
    clipped = certify(book, losses=1.5 * losses, clip=True)
    assert clipped.value == pytest.approx(value)


def test_a_certificate_of_nothing_learnt_is_vacuous() -> None:
    book = Codebook(torch.zeros(2, 1), torch.tensor([-500.0, -600.0]))
    found = certify(book, losses=torch.ones(2, 30))
    assert found.vacuous
    assert found.value == 1.0


@pytest.mark.parametrize(
    ("bound", "parameters", "free"),
    [
        ("catoni", {}, {"beta": 1.0}),
        ("subgaussian", {"variance": 0.25}, {"beta": 0.4}),
        ("subgamma", {"variance": 0.25, "scale": 0.5}, {"beta": 0.5}),
        ("second_moment", {"moment": 0.3}, {"beta": 0.4}),
        ("unexpected_bernstein", {}, {"eta": 0.5}),
    ],
)
def test_other_bounds(bound, parameters, free) -> None:
    book, losses = hypotheses()
    fixed = certify(
        book, losses=losses, bound=bound, predictor="single", **parameters, **free
    )
    risk, k = fixed.empirical_risk, fixed.complexity
    more = {"square": risk, "upper": 1.0} if bound == "unexpected_bernstein" else {}
    expected = getattr(bounds, bound)(risk, k, 100, 0.05, **parameters, **free, **more)
    assert fixed.value == pytest.approx(float(expected), rel=1e-12)
    # a grid is a union: never better than the best of it fixed beforehand
    union = certify(book, losses=losses, bound=bound, **parameters)
    assert 0 < union.value < 1
    with pytest.raises(ConfigurationError, match="parameters"):
        certify(book, losses=losses, bound=bound, **parameters, wrong=1.0)


def test_squared_excess_spends_half_of_delta_on_the_noise() -> None:
    noise, n = 0.5, 2_000
    errors = noise * torch.randn(n, generator=generator(), dtype=torch.float64)
    gaps = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    losses = (errors - gaps[:, None]).square()
    book = Codebook(gaps[:, None], -torch.full((3,), 3.0).log())
    found = certify(
        book,
        losses=losses,
        bound="squared_excess",
        predictor="single",
        noise=noise,
        limit=1.0,
    )
    assert 0 < found.value < 0.2
    assert found.codebook is not None


def test_hedge_takes_the_smaller_of_two_halves() -> None:
    book, losses = hypotheses()
    network = torch.zeros(100, dtype=torch.float64)
    network[:2] = 1
    found = certify(book, losses=losses, hedge=network)
    halves = [
        certify(book, losses=losses, delta=0.025),
        certify_holdout(network, delta=0.025),
    ]
    assert found.value == min(half.value for half in halves)
    assert found.delta == pytest.approx(0.05)
    assert found.predictor == "holdout"


def test_looks_share_delta_and_run_out() -> None:
    book, losses = hypotheses()
    ledger = Ledger(looks=2)
    first = certify(book, losses=losses, ledger=ledger)
    second = certify(book, losses=losses.clone(), ledger=ledger, predictor="single")
    assert first.looks == second.looks == 2
    alone = certify(book, losses=losses, delta=0.025)
    assert first.value == alone.value
    assert first.delta == pytest.approx(0.05)
    with pytest.raises(ConfigurationError, match="looks"):
        certify(book, losses=losses, ledger=ledger)
    fresh = losses.clone()
    fresh[0, 0] = 1 - fresh[0, 0]
    certify(book, losses=fresh, ledger=ledger)


def test_what_is_deployed_is_drawn_with_the_weights() -> None:
    book, losses = hypotheses()
    found = certify(book, losses=losses)
    state = torch.get_rng_state()
    drawn = found.sample(4_000, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert found.log_rho is not None
    share = found.log_rho.exp()
    mean = share @ book.q[:, 0]
    sd = (share @ (book.q[:, 0] - mean).square()).sqrt()
    z = (drawn.mean() - mean) / (sd / 4_000**0.5)
    assert abs(float(z)) < 3.9  # false alarms: 1 in 10,000
    single = certify(book, losses=losses, predictor="single")
    assert torch.equal(single.sample(3), book.q[[single.index] * 3])


def test_splits_do_not_overlap() -> None:
    x = torch.arange(11)
    split = split_prior(x, x.double(), fraction=0.4, seed=3)
    assert sorted(torch.cat([split.prior[0], split.certify[0]]).tolist()) == x.tolist()
    assert torch.equal(split.prior[0], split.prior_index)
    assert torch.equal(split.prior[1], split.prior[0].double())
    check_disjoint(split.prior_index, split.certify_index)
    with pytest.raises(PriorDependsOnDataError, match="row 3"):
        check_disjoint([1, 3], torch.tensor([3, 4]))
    book, losses = hypotheses()
    with pytest.raises(PriorDependsOnDataError):
        certify(book, losses=losses, prior_index=[0, 1], certify_index=[1, 2])


def test_bad_input_is_named() -> None:
    book, losses = hypotheses()
    with pytest.raises(NotProperlyWeightedError, match="heuristic"):
        certify(replace(book, heuristic=True), losses=losses)
    with pytest.raises(EmptyEnsembleError):
        Codebook(torch.zeros(2, 1), torch.full((2,), -math.inf))
    with pytest.raises(ShapeError, match="log_p"):
        Codebook(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(ShapeError, match="losses"):
        certify(book, losses=losses[:5])
    with pytest.raises(ConfigurationError, match="risk, data and losses"):
        certify(book)
    with pytest.raises(ConfigurationError, match="delta"):
        certify(book, losses=losses, delta=0.0)
    with pytest.raises(ConfigurationError, match="'gibbs'"):
        certify(book, losses=losses, predictor="gibbs")
    with pytest.raises(LossRangeError):
        certify(book, losses=torch.full_like(losses, math.nan))
    with pytest.raises(ConfigurationError, match="weights"):
        Codebook.pool([book, book], weights=[0.7, 0.7])
    with pytest.raises(ConfigurationError, match="fraction"):
        split_prior(torch.zeros(4), fraction=1.0)
    with pytest.raises(ConfigurationError, match="looks"):
        Ledger(looks=0)


def test_heuristic_figures_say_so() -> None:
    figure = certify_plugin(torch.zeros(5, 100), complexity=3.0)
    assert figure.status == "heuristic"
    assert "no certificate" in str(figure)
    book, losses = hypotheses()
    both = Certificate.union(
        [replace(figure, delta=0.01), certify(book, losses=losses)]
    )
    assert both.status == "heuristic"


def test_certificates_print_their_assumptions_by_number() -> None:
    book, losses = hypotheses()
    found = certify(book, losses=losses)
    lines = str(found).splitlines()
    assert "at most" in lines[0]
    numbered = [f"{i}. {text}" for i, text in enumerate(found.assumptions, 1)]
    assert lines[2:] == numbered
    assert any("40 hypotheses" in text for text in found.assumptions)
    page = found._repr_html_()
    assert page.count("<li>") == len(found.assumptions)
    facts = found.to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["assumptions"] == list(found.assumptions)
    holdout = certify_holdout(losses[0])
    both = Certificate.union(
        [certify(book, losses=losses, delta=0.02), replace(holdout, delta=0.03)]
    )
    assert {*found.assumptions, *holdout.assumptions} == set(both.assumptions)


# -- how often certificates fail -----------------------------------------------------


def excess_of_failures(failures: int, runs: int, delta: float) -> float:
    """Probability of so many failures if each run fails with probability delta."""
    return float(stats.binom.sf(failures - 1, runs, delta))


@pytest.mark.slow
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_coverage_on_a_finite_set(predictor) -> None:
    runs, m, n, delta = 300, 32, 40, 0.1
    chance = torch.linspace(0.05, 0.6, m, dtype=torch.float64)
    book = Codebook(torch.arange(m)[:, None].double(), -torch.full((m,), m).log())
    uniform = torch.rand(runs, m, n, generator=generator(5), dtype=torch.float64)
    failures = 0
    for flips in uniform:
        losses = (flips < chance[:, None]).double()
        found = certify(book, losses=losses, predictor=predictor, delta=delta)
        assert found.log_rho is not None
        failures += float(found.log_rho.exp() @ chance) > found.value
    assert excess_of_failures(failures, runs, delta) > 1e-4


def random_labels(runs: int, particles: int, n: int) -> tuple[int, int]:
    """Failures with the price of `particles` draws from the prior, and without."""
    uniform = torch.rand(runs, particles, n, generator=generator(6))
    right = wrong = 0
    for flips in uniform:
        losses = (flips < 0.5).double()
        q = torch.zeros(particles, 1)
        dear = Codebook(q, torch.full((particles,), -math.log(particles)))
        right += certify(dear, losses=losses, predictor="single").value < 0.5
        # what a codebook of weights 1 would get, which certify refuses
        wrong += float(bounds.seeger(losses.mean(1).min(), 0.0, n, 0.05)) < 0.5
    return right, wrong


@pytest.mark.slow
def test_the_best_of_many_on_random_labels() -> None:
    runs, delta = 200, 0.05
    right, wrong = random_labels(runs, 1_000, 40)
    assert excess_of_failures(right, runs, delta) > 1e-4
    # the twin that forgets the number of draws is seen with a thousand of them ...
    assert excess_of_failures(wrong, runs, delta) < 1e-4


@pytest.mark.slow
def test_few_draws_do_not_show_that_their_number_was_forgotten() -> None:
    _, wrong = random_labels(200, 16, 40)
    assert excess_of_failures(wrong, 200, 0.05) > 1e-4
