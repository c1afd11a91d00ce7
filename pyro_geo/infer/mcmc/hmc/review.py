"""What the user must know of a run of HMC: notes on warm-up, and warnings on draws."""

from __future__ import annotations

from torch import Tensor

from pyro_geo.errors import ConvergenceWarning, DivergenceWarning, PyroGeoWarning
from pyro_geo.infer.mcmc.hmc.trouble import FIRST_TARGET, long_rejections

__all__ = ["review_draws", "review_warmup", "warmup_notes"]

_STUCK_RATE = 0.1  # mean acceptance below which a chain that stands still is stuck
# A region that attracts more starts than this can be emptied by restarts. R-hat, which
# compares chains, would not see it.
_MOST_RESTARTED = 0.1


def warmup_notes(
    num_chains: int, restarted: int, target: float, raised: bool
) -> list[str]:
    """Say what warm-up did of its own accord.

    Args:
        num_chains: of the run.
        restarted: chains that were restarted at others.
        target: acceptance rate that the step size was adapted to in the end.
        raised: whether warm-up raised it.

    Returns:
        A sentence for each.

    Example:
        >>> warmup_notes(64, 2, 0.8, raised=False)
        ['Warm-up restarted 2 of 64 chains at others.']
    """
    notes = []
    if restarted:
        notes.append(f"Warm-up restarted {restarted} of {num_chains} chains at others.")
    if raised:
        notes.append(
            f"Warm-up raised target_accept_prob from {FIRST_TARGET} to {target}: "
            "transitions diverged, or chains stood still for long."
        )
    return notes


def review_warmup(num_chains: int, restarted: int, away: int) -> list[PyroGeoWarning]:
    """Warn of chains that were moved, and of chains that never arrived.

    Args:
        num_chains: of the run.
        restarted: chains that were restarted at others.
        away: chains that were in a region of negligible mass when warm-up ended.

    Returns:
        One warning for each kind of trouble.

    Example:
        >>> print(review_warmup(64, 62, 0)[0])
        R-hat has lost ... found 62 of 64 chains were restarted at other chains...
    """
    warnings: list[PyroGeoWarning] = []
    if restarted > _MOST_RESTARTED * num_chains:
        warnings.append(
            ConvergenceWarning(
                "R-hat has lost the dispersed starts of many chains",
                where="HMC, warm-up",
                found=f"{restarted} of {num_chains} chains were restarted at other "
                "chains",
                expected=f"at most {_MOST_RESTARTED:.0%}",
                todo="Pass initial_params, or an init_strategy that starts chains "
                "nearer to the posterior, or warm up longer.",
            )
        )
    if away:
        warnings.append(
            ConvergenceWarning(
                "chains are where the posterior has almost no mass",
                where="HMC, end of warm-up",
                found=f"{away} of {num_chains} chains, by their density and the width "
                "of the region they are in",
                expected="none",
                todo="Compare the chains; start them elsewhere or warm up longer.",
            )
        )
    return warnings


def review_draws(stats: dict[str, Tensor], target: float) -> list[PyroGeoWarning]:
    """Count divergent transitions and chains that stand still.

    Args:
        stats: name to `(chains, draws)`.
        target: acceptance rate that the step size was adapted to.

    Returns:
        One warning for each kind of trouble.

    Example:
        >>> import torch
        >>> stats = {"diverging": torch.tensor([[True, False]])}
        >>> stats |= {"lp": torch.zeros(1, 2), "acceptance_rate": torch.ones(1, 2)}
        >>> [type(warning).__name__ for warning in review_draws(stats, 0.8)]
        ['DivergenceWarning']
    """
    raised = "Raise target_accept_prob or reparametrise the model."
    todo = raised if target < 0.99 else "Reparametrise the model."
    warnings: list[PyroGeoWarning] = []
    diverging = stats["diverging"]
    if bool(diverging.any()):
        chains = int(diverging.any(1).sum())
        warnings.append(
            DivergenceWarning(
                "transitions diverged",
                where=f"HMC, {chains} of {len(diverging)} chains",
                found=f"{int(diverging.sum())} of {diverging.numel()} transitions",
                expected="none",
                todo=todo,
            )
        )
    lp, rate = stats["lp"], stats["acceptance_rate"].mean(1)
    # a chain with a few draws may stand still by chance, but then accepts some
    stuck = (lp == lp[:, :1]).all(1) & (rate < _STUCK_RATE)
    if bool(stuck.any()) and lp.shape[1] > 1:
        warnings.append(
            _standing(
                "chains never moved",
                stuck,
                "accepted transitions in every chain",
                f"Do not use the draws; warm up longer. {todo}",
            )
        )
    # where the density is flat, a chain moves and keeps its density: it is accepted
    rejected = (lp[:, 1:] == lp[:, :-1]) & (stats["acceptance_rate"][:, 1:] < 1)
    still = long_rejections(rejected.mT) & ~stuck
    if bool(still.any()):
        warnings.append(
            _standing(
                "chains stood still for 40 transitions or more",
                still,
                f"moving chains at an acceptance rate of {target:g}",
                todo,
            )
        )
    return warnings


def _standing(what: str, chains: Tensor, expected: str, todo: str) -> PyroGeoWarning:
    first = ", ".join(map(str, chains.nonzero().flatten()[:8].tolist()))
    return ConvergenceWarning(
        what,
        where=f"HMC, chains {first}",
        found=f"{int(chains.sum())} of {len(chains)} chains",
        expected=expected,
        todo=todo,
    )
