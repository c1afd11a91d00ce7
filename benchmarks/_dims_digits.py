"""Part `digits`: held-out digits 0 to 4, and digits 5 to 9 out of distribution.

Scores of the mixture of all draws: negative log-likelihood and accuracy on 0 to 4,
area under the ROC curve of the predictive entropy between 0 to 4 and 5 to 9. All on
the traced rung, since a run takes about a second; the MAP is counted into the cost of
what starts from it.
"""

from typing import Any, NamedTuple

import torch
from _bench import Row, load
from _dims_common import Outcome, Scores, anchor_gap, laplace_draws, seconds
from torch import Tensor

from pyro_geo import Target
from pyro_geo.evaluation.baselines import (
    deep_ensemble,
    fan_in_starts,
    linearised_laplace,
    map_estimate,
)
from pyro_geo.evaluation.comparison import predict
from pyro_geo.evaluation.scores import (
    accuracy,
    auroc,
    negative_log_likelihood,
    predictive_entropy,
)
from pyro_geo.infer import DIMS, MCMC

MEMBERS = 8
PRECISIONS = (0.02, 1.0)
UNITS = {"nll": "nat", "processor": "s", "loss_above_the_anchor": "nat"}
VARIANTS: dict[str, dict[str, Any]] = {
    "DiMS, explore + settle, alpha 0": {},
    "DiMS, explore + settle + polish, alpha 0": {"polish": True},
    "DiMS, explore + settle, alpha 1": {"alpha": 1.0},
}


class Sizes(NamedTuple):
    """How much of everything."""

    seeds: int = 3
    draws: int = 16
    adam: int = 2_000
    lbfgs: int = 200
    max_evals: int = 20_000
    images: int | None = None  # of each test set


class Sets(NamedTuple):
    """The model learnt from, on digits it knows and on digits it does not."""

    target: Target
    known: Target
    strange: Target


def measure(quick: bool) -> Outcome:
    """Score every method at both prior precisions."""
    sizes = Sizes(1, 2, 10, 1, 8, 50) if quick else Sizes()
    rows: list[Row] = []
    for precision in PRECISIONS[: 1 if quick else 2]:
        scores = Scores(f"digits, prior precision {precision:g}", UNITS)
        for seed in range(sizes.seeds):
            one_seed(scores, make_sets(precision, seed, sizes), seed, sizes)
        rows += scores.rows()
    return Outcome(rows, {})


def make_sets(precision: float, seed: int, sizes: Sizes) -> Sets:
    """Build the three densities of one seed."""
    module = load("digits_classifier")
    module.PRIOR_PRECISION = precision  # pyright: ignore[reportAttributeAccessIssue]
    x, y = module.held_out(seed)
    (other,) = module.out_of_distribution()
    none = torch.zeros(len(other), dtype=torch.long)  # labels that are never looked at
    pairs = [
        module.data(seed),
        (x[: sizes.images], y[: sizes.images]),
        (other[: sizes.images], none[: sizes.images]),
    ]
    return Sets(
        *(Target.from_model(module.model, *pair, compile=False) for pair in pairs)
    )


def one_seed(scores: Scores, sets: Sets, seed: int, sizes: Sizes) -> None:
    """Score every method on one split."""
    target = sets.target
    starts = fan_in_starts(target, MEMBERS, seed=seed)
    steps = {"num_steps": sizes.adam, "polish_steps": sizes.lbfgs}
    q, spent = seconds(
        lambda: map_estimate(target, 1, seed=seed, **steps, initial=starts[:1])
    )
    score(scores, "MAP", sets, q, spent)
    members, cost = seconds(
        lambda: deep_ensemble(
            target, MEMBERS, seed=seed, num_steps=sizes.adam, initial=starts
        )
    )
    score(scores, f"ensemble of {MEMBERS}", sets, members, cost)
    draws, cost = seconds(lambda: laplace_draws(target, q[0], sizes.draws, seed))
    score(scores, "Laplace", sets, draws, spent + cost)
    linearised(scores, sets, q[0], spent, seed, sizes)
    for method, variant in VARIANTS.items():
        options = {"loss": "joint", "alpha": 0.0, "explore_time": 5.0, "polish": False}
        options |= {"max_evals": sizes.max_evals, "anchors": q, **variant}
        fit = MCMC(
            DIMS(target, **options),
            num_samples=sizes.draws,
            seed=seed,
            compile=False,
            progress_bar=False,
        )
        _, cost = seconds(fit.run)
        score(scores, method, sets, fit.positions[0], spent + cost)
        stats = fit.stats
        scores.add(
            method,
            evaluations_per_draw=float(stats["n_evals"].double().mean()),
            loss_above_the_anchor=anchor_gap(stats),
            kinetic_energy_left=float(stats["kinetic"].mean()),
            share_converged=float(stats["converged"].double().mean()),
        )


def score(scores: Scores, method: str, sets: Sets, q: Tensor, cost: float) -> None:
    """Score draws `(draws, dim)`."""
    known, strange = predict(sets.known, q), predict(sets.strange, q)
    assert known.probs is not None
    assert strange.probs is not None
    keep(scores, method, sets, (known.log_prob, known.probs, strange.probs), cost)


def linearised(
    scores: Scores, sets: Sets, q: Tensor, spent: float, seed: int, sizes: Sizes
) -> None:
    """Score the linearised Laplace approximation."""
    (known, strange), cost = seconds(
        lambda: [
            linearised_laplace(sets.target, q, test, sizes.draws, seed=seed)["y"]
            for test in (sets.known, sets.strange)
        ]
    )
    log_prob = known.log_prob(sets.known.observed["y"])
    found = (log_prob, known.probs.mean(0), strange.probs.mean(0))
    keep(scores, "linearised Laplace", sets, found, spent + cost)


def keep(
    scores: Scores,
    method: str,
    sets: Sets,
    found: tuple[Tensor, Tensor, Tensor],
    cost: float,
) -> None:
    """Turn log-probabilities and the mixed class probabilities into scores."""
    log_prob, known, strange = found
    doubt = predictive_entropy(known), predictive_entropy(strange)
    scores.add(
        method,
        nll=float(negative_log_likelihood(log_prob)),
        accuracy=float(accuracy(known, sets.known.observed["y"].long())),
        auroc=float(auroc(*doubt)),
        processor=cost,
    )
