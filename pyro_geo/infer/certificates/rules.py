"""The bounds that `certify` offers, with their free numbers and assumptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.gibbs.codebook import Losses

__all__ = ["Bound", "Candidates", "Rule", "check_claims", "evaluate", "rule_of"]

Bound = Literal[
    "kl",
    "catoni",
    "subgaussian",
    "subgamma",
    "second_moment",
    "unexpected_bernstein",
    "squared_excess",
]


class Candidates(NamedTuple):
    """Ensembles to choose from.

    Attributes:
        risk: empirical, `(candidates,)`.
        square: mean of the squared loss, `(candidates,)`.
        complexity: in nats, `(candidates,)`.
    """

    risk: Tensor
    square: Tensor
    complexity: Tensor


class Rule(NamedTuple):
    """A bound that `certify` can use.

    Attributes:
        fn: from `bounds`.
        free: name of the number that must be fixed before the data are seen, or None.
        grid: its default values, a function of the number of examples and the other
            parameters.
        parameters: names of what the user must state about the loss.
        in_range: whether the loss must lie in a known interval.
        assumption: what must be true for the bound.
    """

    fn: Callable[..., Tensor]
    free: str | None
    grid: Callable[[int, dict[str, Any]], Tensor] | None
    parameters: tuple[str, ...]
    in_range: bool
    assumption: str


def _ladder(low: float, high: float, count: int) -> Tensor:
    return torch.logspace(low, high, count, dtype=torch.float64)


# Values of a free number that must stay below one, in units of its limit.
_BELOW_ONE = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])

_RULES: dict[str, Rule] = {
    "kl": Rule(
        bounds.seeger, None, None, (), True, "The loss lies in its range, always."
    ),
    "catoni": Rule(
        bounds.catoni,
        "beta",
        lambda n, p: _ladder(-1, 0.8, 10),
        (),
        True,
        "The loss lies in its range, always.",
    ),
    "subgaussian": Rule(
        bounds.subgaussian,
        "beta",
        lambda n, p: _ladder(-1.5, 0.5, 9) / p["variance"] ** 0.5,
        ("variance",),
        False,
        "At every parameter the loss is sub-Gaussian with the variance given.",
    ),
    "subgamma": Rule(
        bounds.subgamma,
        "beta",
        lambda n, p: _BELOW_ONE.double() / p["scale"],
        ("variance", "scale"),
        False,
        "At every parameter the loss is sub-gamma with variance and scale given.",
    ),
    "second_moment": Rule(
        bounds.second_moment,
        "beta",
        lambda n, p: _ladder(-1.5, 0.5, 9) / p["moment"] ** 0.5,
        ("moment",),
        False,
        "The loss is not negative, and its expected square at most the moment given.",
    ),
    "unexpected_bernstein": Rule(
        bounds.unexpected_bernstein,
        "eta",
        lambda n, p: _BELOW_ONE.double() / p["upper"],
        ("upper",),
        True,
        "The loss is at most the upper end of its range.",
    ),
    "squared_excess": Rule(
        bounds.squared_excess,
        "omega",
        lambda n, p: _BELOW_ONE.double() / (2 * p["noise"] ** 2),
        ("limit", "noise"),
        False,
        "Squared loss; predictions and truth differ by at most twice the limit given, "
        "and the noise is normal with the standard deviation given.",
    ),
}


def rule_of(name: str, parameters: dict[str, Any]) -> Rule:
    """Look up a bound.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where the bound needs other
    parameters.

    Args:
        name: of the bound.
        parameters: what the user states about the loss.

    Returns:
        The rule.
    """
    check_choice("bound", name, sorted(_RULES))
    rule = _RULES[name]
    free = {rule.free} if rule.free else set()
    needed = set(rule.parameters) - {"upper"}
    optional = f", and {rule.free} if you like" if rule.free else ""
    expected = f"{sorted(needed)}{optional} for the bound {name!r}"
    check(set(parameters) - free == needed, "parameters", sorted(parameters), expected)
    return rule


def check_claims(
    parameters: dict[str, Any], losses: Losses, alive: Tensor, chosen: Candidates
) -> None:
    """Refuse what the user states about the loss where the losses seen deny it.

    A sum of `n` squares deviates from its mean by more than `8 / sqrt(n)` of it only
    where the statement is false, or the tails are so heavy that it is of no use.

    Args:
        parameters: what the user states.
        losses: of all particles.
        alive: which of them count.
        chosen: the ensemble that is certified.
    """
    slack = 1 + 8 / losses.n**0.5
    if "variance" in parameters:
        spread = (losses.square - losses.mean.square())[alive].amax()
        limit = float(parameters["variance"]) * slack
        found = f"{parameters['variance']}, where losses vary by {float(spread):.3g}"
        expected = "at least the variance of the loss at every parameter"
        check(float(spread) <= limit, "variance", found, expected)
    if "moment" in parameters:
        square = float(chosen.square.max())
        found = f"{parameters['moment']}, where squares have mean {square:.3g}"
        expected = "at least the ensemble's mean squared loss"
        check(square <= float(parameters["moment"]) * slack, "moment", found, expected)
        low = float(losses.mean[alive].amin())
        check(low >= 0, "risk", f"a mean loss of {low:.3g}", "a loss of at least 0")


def evaluate(
    rule: Rule,
    candidates: Candidates,
    n: int,
    delta: float,
    parameters: dict[str, Any],
) -> Tensor:
    """Bound the risk of each candidate, with the best free number of the grid.

    Args:
        rule: the bound.
        candidates: the ensembles.
        n: examples.
        delta: of the whole union.
        parameters: of the loss; the free number's grid among them if given.

    Returns:
        Bounds, `(candidates,)`.
    """
    if rule.free is None or rule.grid is None:
        return rule.fn(candidates.risk, candidates.complexity, n, delta)
    known = {name: parameters[name] for name in rule.parameters}
    grid = parameters.get(rule.free)
    grid = rule.grid(n, parameters) if grid is None else grid
    # (grid, 1) broadcasts against (candidates,)
    grid = torch.as_tensor(grid, dtype=torch.float64, device=candidates.risk.device)
    grid = grid.reshape(-1, 1)
    if rule.fn is bounds.unexpected_bernstein:
        known["square"] = candidates.square
    if rule.fn is bounds.squared_excess:
        from scipy import stats

        # A lower bound on the true function's loss on these data takes half of delta.
        delta = delta / 2
        known["best"] = known["noise"] ** 2 * stats.chi2.ppf(delta, n) / n
    share = delta / len(grid)  # a union bound over the values of the free number
    values = rule.fn(
        candidates.risk, candidates.complexity, n, share, **known, **{rule.free: grid}
    )
    return values.amin(0)
