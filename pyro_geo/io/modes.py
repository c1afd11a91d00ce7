"""What a run that started in known modes says of them: facts, and counts of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "HIDDEN",
    "ModeFacts",
    "ModeMarks",
    "ModeTally",
    "facts_of_modes",
    "tally_modes",
]

HIDDEN = ("mode_weights", "mode_copies", "chain_modes", "mode_shares")
"""Attributes that a page shows as a table, if at all."""

_NAMES = ("modes", "mode_weights", "mode_copies", "chain_modes", "modes_searched")
_SHARE, _FEWEST = 0.05, 2  # of a chain's draws, that make up a visit


class ModeFacts(NamedTuple):
    """What a run has been told of the modes, as its attributes hold it.

    Attributes:
        weights: of the modes, estimated before the run, `(modes,)`.
        copies: the mode of which each is a symmetric copy, `(modes,)`.
        chains: the mode that each chain started in, `(chains,)`.
        searched: what was searched, in words.
    """

    weights: np.ndarray
    copies: np.ndarray
    chains: np.ndarray
    searched: str

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> ModeFacts | None:
        """Read them from the attributes of a run.

        Args:
            attributes: name to text or number.

        Returns:
            The facts; None where the run did not start in modes, or they are damaged.

        Example:
            >>> facts = facts_of_modes([0.75, 0.25], [0, 1], [0, 1, 0], {"starts": 99})
            >>> found = ModeFacts.read(facts)
            >>> found.weights.tolist(), found.chains.tolist(), found.searched
            ([0.75, 0.25], [0, 1, 0], 'starts 99')
        """
        if any(name not in attributes for name in _NAMES):
            return None
        try:
            weights, copies, chains = (
                np.array(str(attributes[name]).split(), dtype=kind)
                for name, kind in zip(_NAMES[1:4], (float, int, int), strict=True)
            )
        except ValueError:  # of a store that someone has written to
            return None
        count = len(weights)
        inside = chains.size and chains.min() >= 0 and chains.max() < count
        if not inside or len(copies) != count:
            return None
        return cls(weights, copies, chains, str(attributes["modes_searched"]))


def facts_of_modes(
    weights: Sequence[float],
    copies: Sequence[int],
    chains: Sequence[int],
    searched: Mapping[str, Any],
) -> dict[str, str | int]:
    """Write the facts as attributes, which are texts and numbers.

    Args:
        weights: of the modes.
        copies: the mode of which each is a copy.
        chains: the mode that each chain starts in.
        searched: name to number or text.

    Returns:
        Attributes by name.
    """
    words = ", ".join(f"{key} {_short(value)}" for key, value in searched.items())
    texts = (
        " ".join(f"{w:.6g}" for w in weights),
        " ".join(str(int(k)) for k in copies),
        " ".join(str(int(k)) for k in chains),
        words or "not recorded",
    )
    return {"modes": len(weights), **dict(zip(_NAMES[1:], texts, strict=True))}


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class ModeMarks(NamedTuple):
    """Points to mark in a picture of modes.

    Attributes:
        modes: values at each mode, site to `(modes, *shape)`.
        starts: values where each chain started, site to `(chains, *shape)`.
    """

    modes: Mapping[str, np.ndarray]
    starts: Mapping[str, np.ndarray]


class ModeTally(NamedTuple):
    """Where the draws of a run were.

    Attributes:
        shares: of all draws, `(modes,)`.
        unclaimed: share of the draws that are in no mode.
        visits: whether each chain made draws in each mode, `(chains, modes)`.
        sets: modes with draws, in sets that chains connect; one where all are joined.
        left: chains that made most of their draws outside the mode they started in.
        rows: a table, one mapping for each mode.
    """

    shares: np.ndarray
    unclaimed: float
    visits: np.ndarray
    sets: list[list[int]]
    left: int
    rows: list[dict[str, object]]

    @property
    def moved(self) -> int:
        """Number of chains that made draws in several modes."""
        return int((self.visits.sum(1) > 1).sum())


def tally_modes(labels: np.ndarray, facts: ModeFacts) -> ModeTally:
    """Count the draws in each mode, and see which modes chains connect.

    A chain visits a mode where it makes at least two draws, and a twentieth of its own
    or, for a light mode, half the mode's weight: a single draw of a long tail can be
    nearer to another mode.

    Args:
        labels: the mode of each draw, -1 for none, `(chains, draws)`.
        facts: of the run.

    Returns:
        The counts.

    Example:
        >>> facts = ModeFacts(np.array([0.5, 0.5]), np.arange(2), np.arange(2), "")
        >>> tally = tally_modes(np.array([[0] * 8, [1] * 8]), facts)
        >>> tally.sets, tally.moved, tally.shares.tolist()
        ([[0], [1]], 0, [0.5, 0.5])
    """
    count, (chains, draws) = len(facts.weights), labels.shape
    inside = np.stack([(labels == k).sum(1) for k in range(count)], axis=1)
    least = np.minimum(_SHARE, facts.weights / 2) * draws
    visits = inside >= np.maximum(least, min(_FEWEST, draws))
    shares = inside.sum(0) / max(labels.size, 1)
    started = facts.chains[:chains]
    left = inside[np.arange(chains), started] * 2 < inside.sum(1)
    rows: list[dict[str, object]] = [
        {
            "mode": k,
            "weight": float(facts.weights[k]),
            "share of draws": float(shares[k]),
            "chains started": int((started == k).sum()),
            "chains that left": int(left[started == k].sum()),
            "chains that were there": int(visits[:, k].sum()),
            "copy of": "" if facts.copies[k] == k else int(facts.copies[k]),
        }
        for k in range(count)
    ]
    unclaimed = float((labels < 0).mean()) if labels.size else 0.0
    return ModeTally(
        shares, unclaimed, visits, _connected(visits), int(left.sum()), rows
    )


def _connected(visits: np.ndarray) -> list[list[int]]:
    """Sets of modes that chains connect, those without draws left out."""
    sets: list[set[int]] = []
    for row in np.unique(visits, axis=0):
        here = set(np.flatnonzero(row).tolist())
        if not here:
            continue
        apart = [old for old in sets if not old & here]
        sets = [*apart, here.union(*(old for old in sets if old & here))]
    return sorted(sorted(modes) for modes in sets)
