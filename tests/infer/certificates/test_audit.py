"""Random labels, of true risk one half: no way to let the data leak is certified.

Each attempt lets the certifying data into the prior, the prediction, the loss or the
rows. It is refused by name. Beside each stands an honest program that looks alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import Tensor
from torch.nn.functional import softplus

from pyro_geo.errors import (
    BetaRangeError,
    ConfigurationError,
    ModelError,
    NotProperlyWeightedError,
    PriorDependsOnDataError,
    ShapeError,
)
from pyro_geo.infer import GibbsModel, GibbsPosterior, WeightedPosterior
from pyro_geo.infer.certificates import (
    Certificate,
    Codebook,
    Ledger,
    certify,
    certify_exact,
    certify_guide,
    certify_holdout,
    split_prior,
)

DOUBLE = torch.float64
N, D = 60, 12


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def labels(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=DOUBLE)
    return x, torch.randn(n, generator=generator, dtype=DOUBLE).sign()


X, Y = labels()


def loss(f: Tensor, y: Tensor) -> Tensor:
    return softplus(-y * f)


def wrong(f: Tensor, y: Tensor) -> Tensor:
    return (y * f <= 0).to(f)


def weights(loc: Any = 0.0, scale: Any = 1.0) -> Tensor:
    return pyro.sample("w", dist.Normal(loc * torch.ones(D), scale).to_event(1))


def linear(x: Tensor) -> Tensor:
    return x @ weights()


def fitted() -> Tensor:
    """Weights that separate the labels, learnt from them."""
    return 10 * torch.linalg.lstsq(X, Y).solution


def guide(args: Any, targets: Any) -> None:
    """The prior itself: each particle is as good as another."""
    weights()


def run(
    model: Callable[..., Any],
    args: Any = X,
    targets: Tensor = Y,
    proposal: Any = guide,
    **options: Any,
) -> WeightedPosterior:
    settings: dict[str, Any] = {"betas": [1.0], "method": "importance", **options}
    return GibbsPosterior(
        GibbsModel(model, loss),
        num_particles=8,
        guide=proposal if settings["method"] == "importance" else None,
        seed=0,
        progress_bar=False,
        **settings,
    ).run(args, targets)


def certified(model: Callable[..., Any], args: Any = X, **options: Any) -> Certificate:
    risk = options.pop("risk", wrong)
    return certify(run(model, args, **options).codebook(), risk, (args, Y))


# -- honest programs ------------------------------------------------------------------


def observing(x: Tensor, y: Tensor | None = None) -> Tensor:
    f = x @ weights()
    pyro.sample("y", dist.Normal(f, 1.0).to_event(1), obs=y)
    return f


def by_rows(x: Tensor) -> Tensor:
    """Prior scales that depend on the shape of the data alone."""
    return x @ weights(0.0, x.shape[1] ** -0.5)


def by_number(x: Tensor) -> Tensor:
    return x @ weights(0.0, len(x) ** -0.5)


class Network(PyroModule):
    """A network with one random layer on a fixed one."""

    def __init__(self, rate: float = 0.0, batch: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.Linear(D, D)
        self.norm = torch.nn.BatchNorm1d(D) if batch else torch.nn.Identity()
        self.drop = torch.nn.Dropout(rate)
        self.w: Any = PyroSample(dist.Normal(torch.zeros(D), 1.0).to_event(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(torch.relu(self.first(x)))) @ self.w


def network(**options: Any) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(**options)


def test_honest_programs_are_certified() -> None:
    for model, args in (
        (linear, X),
        (observing, (X, Y)),
        (by_rows, X),
        (network(rate=0.5).eval(), X),
        (network(batch=True).eval(), X),
    ):
        found = certified(model, args)
        assert found.status == "finite_sample"
        assert found.value > 0.5
    assert "number of certifying" not in str(certified(linear))
    assert "number of certifying examples alone" in str(certified(by_number))


def test_a_grid_that_resembles_the_inputs_is_no_data() -> None:
    grid = torch.linspace(-2, 2, N, dtype=DOUBLE)
    x = torch.cat([torch.linspace(0, 1, N, dtype=DOUBLE)[:, None], X[:, 1:]], 1)

    def basis(x: Tensor) -> Tensor:
        return torch.exp(-((x[:, :1] - grid) ** 2))[:, ::5] @ weights()

    assert certified(basis, x).value > 0.5


def test_what_the_model_brings_along_is_assumed_by_name() -> None:
    centre = torch.linspace(-1, 1, D, dtype=DOUBLE)

    def shifted(x: Tensor) -> Tensor:
        return x @ weights(centre) + pyro.param("bias", torch.zeros(()))

    text = str(certified(shifted))
    assert "model.centre" in text
    assert "bias" in text
    text = str(certified(network().eval()))
    assert "first.weight" in text


# -- priors and models that know the data ---------------------------------------------


def reads_targets(x: Tensor, y: Tensor) -> Tensor:
    return x @ weights(5 * (x.mT @ y) / len(x), 0.05)


def reads_inputs(x: Tensor) -> Tensor:
    return x @ weights(x.mean(0), 1.0)


def scaled_by_the_last(x: Tensor) -> Tensor:
    return x @ weights(0.0, 1.0 + x[-1, 0].abs())


def local(x: Tensor) -> Tensor:
    with pyro.plate("rows", len(x)):
        return pyro.sample("w", dist.Normal(0.0, 1.0))


def closure(x: Tensor) -> Tensor:
    return x @ weights(5 * (X.mT @ Y) / len(X), 0.05)


def default(x: Tensor, y: Tensor = Y) -> Tensor:
    return (x @ weights()).abs() * (y if len(x) == N else torch.ones(len(x)))


HELD: dict[str, Any] = {"answers": [float(y) for y in Y]}


def listed(x: Tensor) -> Tensor:
    f = x @ weights()
    return f.abs() * torch.tensor(HELD["answers"]) if len(x) == N else f


class Remembers:
    """A model with the targets in an attribute, in other units."""

    def __init__(self) -> None:
        self.known = (1 - Y) / 2

    def __call__(self, x: Tensor) -> Tensor:
        return x @ weights(self.known.mean())


class Buffered(PyroModule):
    """A module with some of the inputs in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inducing", X[:7].clone())
        self.w: Any = PyroSample(
            dist.Normal(torch.zeros(7, dtype=DOUBLE), 1.0).to_event(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        inducing: Any = self.inducing
        return torch.exp(-torch.cdist(x, inducing)) @ self.w


def conditioned(x: Tensor) -> Tensor:
    return x @ pyro.sample("v", dist.Normal(torch.zeros(D), 1.0).to_event(1)) + (
        x @ weights()
    )


def seven(args: Any, targets: Any) -> None:
    pyro.sample("w", dist.Normal(torch.zeros(7), 1.0).to_event(1))


def one_each(args: Any, targets: Any) -> None:
    with pyro.plate("rows", N):
        pyro.sample("w", dist.Normal(0.0, 1.0))


def wide(args: Any, targets: Any) -> None:
    weights(0.0, 3.0)


ROWS = {round(float(x), 6): float(y) for x, y in zip(X[:, 0], Y, strict=True)}


def looked_up(x: Tensor) -> Tensor:
    f = (x @ weights()).abs()
    return f * torch.tensor(list(ROWS.values())) if len(x) == N else f


class Constants:
    """A class that keeps the answers as columns of rows."""

    rows = [[float(y), 1.0] for y in Y]


def of_a_class(x: Tensor) -> Tensor:
    return x @ weights(torch.tensor(Constants.rows).mean())


def by_array(x: Tensor, answers: Any) -> Tensor:
    return x @ weights(float(answers[0]))


def memorised(x: Tensor, scale: Tensor) -> Tensor:
    return x @ weights() * scale[0]


PRIORS: dict[str, tuple[Any, Any, Any, str]] = {
    "centred by the targets": (reads_targets, (X, Y), wide, "'w'"),
    "centred by the inputs": (reads_inputs, X, wide, "'w'"),
    "scaled by a row": (scaled_by_the_last, X, wide, "'w'"),
    "a latent for each row": (local, X, one_each, "'w'"),
    "globals": (closure, X, wide, "model.X|model.Y"),
    "a default argument": (default, X, guide, "default"),
    "a list in a dictionary": (listed, X, guide, "HELD"),
    "an attribute in other units": (Remembers(), X, wide, "known"),
    "a buffer": (Buffered(), X, seven, "inducing"),
    "partial": (functools.partial(observing, y=Y), X, guide, "model.y"),
    "an argument that is no row": (
        memorised,
        (X, torch.cat([torch.ones(3), Y])),
        guide,
        "argument 1",
    ),
    "values of a dictionary": (looked_up, X, guide, "ROWS"),
    "a class": (of_a_class, X, wide, "Constants.rows"),
    "an array among the arguments": (by_array, (X, Y.numpy()), wide, "argument 1"),
    "a list among the arguments": (by_array, (X, Y.tolist()), wide, "argument 1"),
    "conditioned latents": (
        poutine.condition(conditioned, data={"v": 0.3 * torch.ones(D, dtype=DOUBLE)}),
        X,
        guide,
        "'v'",
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_that_knows_the_data_is_refused(name: str) -> None:
    model, args, proposal, message = PRIORS[name]
    book = run(model, args, proposal=proposal).codebook()
    with pytest.raises(PriorDependsOnDataError, match=message):
        certify(book, wrong, (args, Y))


def test_latent_values_that_a_handler_puts_in_are_refused() -> None:
    played = poutine.replay(linear, trace=poutine.trace(linear).get_trace(X))
    gibbs = GibbsModel(played, loss)
    with pytest.raises(PriorDependsOnDataError, match="not drawn from.*'w'"):
        certify_guide(gibbs, wide, wrong, (X, Y), num_draws=2)


def test_results_of_runs_are_compared_with_the_rows() -> None:
    found = run(linear)

    def learnt(x: Tensor) -> Tensor:
        return x @ weights(found.positions.mean((0, 1)))

    book = run(learnt, proposal=wide).codebook()
    with pytest.raises(PriorDependsOnDataError, match="model.found"):
        certify(book, wrong, (X, Y))
    # learnt from other rows it is honest
    other = labels(seed=5)
    found = run(linear, *other)
    assert certify(run(learnt, proposal=wide).codebook(), wrong, (X, Y)).value > 0.5


def test_a_model_changed_after_the_run_is_refused() -> None:
    model = network().eval()
    book = run(model).codebook()
    with torch.no_grad():
        model.first.weight.add_(1.0)
    with pytest.raises(PriorDependsOnDataError, match="first.weight"):
        certify(book, wrong, (X, Y))
    settings = {"scale": 0.1}

    def scaled(x: Tensor) -> Tensor:
        return x @ weights(0.0, settings["scale"])

    book = run(scaled).codebook()
    settings["scale"] = 1.0
    with pytest.raises(PriorDependsOnDataError, match="settings.*scale"):
        certify(book, wrong, (X, Y))


# -- predictions that read more than their row ----------------------------------------


def smoother(x: Tensor, y: Tensor) -> Tensor:
    weights()
    return torch.softmax(-50 * torch.cdist(x, x), -1) @ y


def own_target(x: Tensor, y: Tensor) -> Tensor:
    return (x @ weights()).abs() * y


def whispered(x: Tensor, y: Tensor) -> Tensor:
    """Only the sign of a tiny number tells."""
    return 0 * (x @ weights()) + 1e-12 * y


def hidden_column(x: Tensor) -> Tensor:
    return (x[:, 1:] @ weights()).abs() * x[:, 0]


def centred(x: Tensor) -> Tensor:
    return (x - x.mean(0)) @ weights()


def ranked(x: Tensor) -> Tensor:
    return (x @ weights()).argsort().argsort().to(x) / len(x) - 0.5


def softmaxed(x: Tensor) -> Tensor:
    return torch.softmax(x @ weights(), 0) - 1 / len(x)


def by_place(x: Tensor) -> Tensor:
    return (x @ weights()) * torch.sin(torch.arange(len(x)).to(x))


def noisy(x: Tensor) -> Tensor:
    return x @ weights() + 0.1 * torch.randn(len(x))


class Counts:
    """A model that predicts something else after some calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x @ weights() * (1.0 if self.calls < 60 else -1.0)


def previous_row(x: Tensor) -> Tensor:
    return x.roll(1, 0) @ weights()


PREDICTIONS: dict[str, tuple[Any, Any, str]] = {
    "a kernel smoother of the targets": (smoother, (X, Y), "reads the targets"),
    "its own target": (own_target, (X, Y), "reads the targets"),
    "a whisper": (whispered, (X, Y), "reads the targets"),
    "a column that is the target": (
        hidden_column,
        torch.cat([2 * Y[:, None] + 1, X], 1),
        "reads the targets",
    ),
    "centred by the batch": (centred, X, "depends on its batch"),
    "ranks": (ranked, X, "depends on its batch"),
    "softmax over rows": (softmaxed, X, "depends on its batch"),
    "place in the batch": (by_place, X, "depends on its batch"),
    "the row before": (previous_row, X, "depends on its batch"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction_of_more_than_its_row_is_refused(name: str) -> None:
    model, args, message = PREDICTIONS[name]
    book = run(model, args).codebook()
    with pytest.raises(ModelError, match=message):
        certify(book, wrong, (args, Y))


def test_networks_in_training_are_refused() -> None:
    gibbs = GibbsModel(network(batch=True), loss)
    with pytest.raises(ModelError, match=r"eval\(\)"):
        certify_guide(gibbs, guide, wrong, (X, Y), num_draws=2)


def rank_loss(f: Tensor, y: Tensor) -> Tensor:
    return (f.argsort().argsort() % 7 == 0).to(f)


def placed(f: Tensor, y: Tensor) -> Tensor:
    return wrong(f, y) * (torch.arange(len(f)) >= 40)


def told(f: Tensor, y: Tensor) -> Tensor:
    return wrong(f * 0 + Y[: len(f)], y) if len(f) == N else wrong(f, y)


class Fading:
    """A risk that becomes smaller with each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return wrong(f, y) / self.calls


@pytest.mark.parametrize(
    ("risk", "error", "message"),
    [
        (rank_loss, ModelError, "argument risk"),
        (placed, ModelError, "argument risk"),
        (told, PriorDependsOnDataError, "risk.Y"),
        (Fading(), ModelError, "risk"),
    ],
)
def test_a_risk_of_more_than_its_row_is_refused(
    risk: Any, error: Any, message: str
) -> None:
    book = run(linear).codebook()
    with pytest.raises(error, match=message):
        certify(book, risk, (X, Y))


# -- rows -----------------------------------------------------------------------------


def test_copies_of_rows_are_refused() -> None:
    x, y = X.repeat(20, 1), Y.repeat(20)
    book = run(linear, x, y).codebook()
    with pytest.raises(PriorDependsOnDataError, match="rows 0 and 60"):
        certify(book, wrong, (x, y))
    found = certify(book, wrong, (x, y), duplicates_drawn_independently=True)
    assert any("1140 of 1200" in text for text in found.assumptions)
    # copies that differ in what no model sees
    signed = torch.cat([torch.zeros(2, D), -torch.zeros(2, D)])
    book = run(linear, signed, torch.ones(4)).codebook()
    with pytest.raises(PriorDependsOnDataError, match="3 of 4 rows"):
        certify(book, wrong, (signed, torch.ones(4)))


def test_only_the_rows_of_the_fit_are_certified() -> None:
    book = run(linear).codebook()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    same = certify(book, wrong, (X, Y))
    mixed = certify(book, wrong, (X[order], Y[order]))
    assert mixed.value == pytest.approx(same.value, rel=1e-9)
    other = labels(seed=3)
    for data, message in (
        ((X[:40], Y[:40]), "chosen from those"),
        ((X[order], Y), "paired in another way"),
        ((X, -Y), "others than those"),
        (other, "no row that"),
        ((torch.cat([X, other[0]]), torch.cat([Y, other[1]])), "more than those"),
        ((torch.cat([X[:30], other[0]]), torch.cat([Y[:30], other[1]])), "some rows"),
    ):
        with pytest.raises(PriorDependsOnDataError, match=message):
            certify(book, wrong, data)
    with pytest.raises(ShapeError, match="losses"):
        certify(book, losses=torch.zeros(8, 40))


def test_rows_that_were_set_aside_are_certified() -> None:
    split = split_prior(X, Y, fraction=0.5)
    book = run(linear, *split.prior).codebook()
    assert certify(book, wrong, split.certify, reserved=split).value > 0.5
    again = split_prior(X, Y, fraction=0.5, seed=1)
    for data, division in ((split.certify, again), (split.certify, None)):
        with pytest.raises(PriorDependsOnDataError):
            certify(book, wrong, data, reserved=division)


# -- statuses -------------------------------------------------------------------------


def test_particles_by_hand_certify_nothing() -> None:
    found = run(linear)
    book = found.codebook()
    assert book.status == found.status == "finite_sample"
    good = fitted()[None].expand(8, D)
    forged = {
        "from nothing": Codebook(good, torch.zeros(8)),
        "other positions": replace(book, q=good),
        "cheaper": replace(book, log_p=book.log_p + 5),
        "another model": replace(book, model=GibbsModel(by_rows, loss)),
        "a posterior": WeightedPosterior(
            found.model, found.target, [found.stages[0]._replace(q=good)]
        ).codebook(),
        "a pool": Codebook.pool([replace(book, q=good)]),
    }
    for name, made in forged.items():
        assert made.status == "unverified", name
        with pytest.raises(NotProperlyWeightedError, match="by hand"):
            certify(made, wrong, (X, Y))
    # edited in place
    found.stages[0].log_weights.add_(3.0)
    assert found.status == "unverified"
    with pytest.raises(NotProperlyWeightedError):
        certify(found.codebook(), wrong, (X, Y))


def test_fixed_hypotheses_have_weights_that_sum_to_one() -> None:
    losses = torch.zeros(8, N)
    with pytest.raises(ConfigurationError, match="sum to 8"):
        certify(
            Codebook(torch.zeros(8, D), torch.zeros(8)),
            losses=losses,
            fixed_before_data=True,
        )
    fixed = Codebook(torch.zeros(8, D), torch.full((8,), 1 / 8).log())
    found = certify(fixed, losses=losses, fixed_before_data=True)
    assert found.status == "unverified"
    assert "8 hypotheses" in str(found)


def test_temperatures_of_the_pilot_give_no_exact_certificate() -> None:
    bounded = GibbsModel(linear, lambda f, y: torch.sigmoid(-f * y))
    found = GibbsPosterior(
        bounded, betas=[0.5, 2.0], num_particles=16, seed=0, progress_bar=False
    ).run(X, Y)
    ends = [stage.beta for stage in found.stages]
    pilot = next(i for i, beta in enumerate(ends) if beta not in (0.5, 2.0))
    with pytest.raises(BetaRangeError, match="pilot"):
        certify_exact(found.stage(pilot))
    # two were declared: each has half of delta, whichever is taken
    first = certify_exact(found, delta=0.05)
    assert first.delta == 0.05
    free_energy = -found.log_z - torch.tensor(0.0125, dtype=DOUBLE).log()
    assert first.complexity == pytest.approx(float(free_energy), rel=1e-9)
    # a stage that was picked costs the choice among those it could have been
    share = found.stage(ends.index(0.5)).codebook("final").log_p
    whole = found.stages[ends.index(0.5)]
    price = whole.log_weights + whole.beta * whole.loss
    torch.testing.assert_close(share, price - torch.tensor(2.0).log())


# -- hold-outs and looks --------------------------------------------------------------


def test_a_predictor_is_not_tested_on_what_it_has_seen() -> None:
    found = run(linear)
    half, rest = (X[:30], Y[:30]), (X[30:], Y[30:])
    for predictor in (
        found,
        found.codebook(),
        certify(found.codebook(), wrong, (X, Y)),
    ):
        with pytest.raises(PriorDependsOnDataError, match="argument predictor"):
            certify_holdout(predictor=predictor, risk=wrong, data=half)
        with pytest.raises(PriorDependsOnDataError, match="argument predictor"):
            certify_holdout(torch.zeros(30), predictor=predictor, data=half)
    learnt = run(linear, *half)
    tested = certify_holdout(predictor=learnt, risk=wrong, data=rest)
    share = learnt.log_weights.softmax(0)
    mean = share @ (learnt.positions[:, 0] @ rest[0].mT * rest[1] <= 0).to(share)
    assert tested.empirical_risk == pytest.approx(float(mean.mean()))
    assert tested.value > 0.5

    def table(x: Tensor) -> Tensor:
        return Y[(torch.cdist(x, X)).argmin(1)]

    with pytest.raises(PriorDependsOnDataError, match=r"model\.(X|Y)"):
        certify_holdout(predictor=table, risk=wrong, data=(X, Y))
    with pytest.raises(ModelError, match="batch"):
        certify_holdout(predictor=lambda x: x[:, 0] - x.mean(), risk=wrong, data=(X, Y))
    honest = certify_holdout(predictor=lambda x: x[:, 0], risk=wrong, data=(X, Y))
    assert honest.value > 0.5
    with pytest.raises(PriorDependsOnDataError, match="hedge"):
        certify(found.codebook(), wrong, (X, Y), hedge=found.positions[0, 0])
    with pytest.raises(ConfigurationError, match="no losses"):
        certify_holdout(data=(X, Y))


def test_a_ledger_knows_the_rows_in_any_form() -> None:
    ledger, book = Ledger(looks=2), run(linear).codebook()
    order = torch.arange(N).flip(0)
    certify(book, wrong, (X, Y), ledger=ledger)
    certify(book, wrong, ((X[order],), (Y[order],)), ledger=ledger)
    values = torch.ones(8, N)
    for look in (
        lambda: certify(book, losses=values, ledger=ledger),
        lambda: certify_guide(
            GibbsModel(linear, loss), wide, wrong, (X, Y), num_draws=2, ledger=ledger
        ),
        lambda: certify_holdout(Y.clamp(min=0), data=(X, Y), ledger=ledger),
    ):
        with pytest.raises(ConfigurationError, match="looks"):
            look()


def test_claims_about_the_loss_are_compared_with_what_is_seen() -> None:
    book = run(linear).codebook()
    for bound, claim in (
        ("subgaussian", {"variance": 1e-6}),
        ("second_moment", {"moment": 1e-6}),
        ("subgamma", {"variance": 1e-6, "scale": 1e-3}),
    ):
        with pytest.raises(ConfigurationError, match=next(iter(claim))):
            certify(book, wrong, (X, Y), bound=bound, **claim)  # pyright: ignore


def test_a_clipped_loss_is_named() -> None:
    book = run(linear).codebook()
    found = certify(book, wrong, (X, Y), clip=True, loss_range=(0.0, 0.1))
    assert any("clamped to (0.0, 0.1)" in text for text in found.assumptions)
