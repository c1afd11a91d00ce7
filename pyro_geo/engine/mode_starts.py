"""Chains that start in known modes: how they are shared out, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyro_geo.density import Layout, Target
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import (
    InitializationError,
    LayoutMismatchError,
    ModesNotJoinedWarning,
    PyroGeoWarning,
)
from pyro_geo.geometry.laplace import Laplace
from pyro_geo.io.modes import ModeFacts, ModeTally, facts_of_modes, tally_modes
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["ModeReview", "ModeStarts", "Modes", "interleaved", "review_modes"]

# Of a draw of the Laplace density towards the mode, until its density is what is usual.
_SCALES = (1.0, 0.5, 0.25, 0.125, 0.06, 0.0)
_SHOWN = 8  # sets of modes that a message names
_SELDOM = 1.05  # R-hat of being in a mode above which its share is not settled


@runtime_checkable
class Modes(Protocol):
    """What a set of modes must tell to start chains.

    :class:`pyro_geo.infer.ModeSet` does. Shapes: `q` is `(modes, dim)`; `log_prob`,
    `log_weights` and `copies` are `(modes,)`; `laplace` has a leading axis of modes.
    """

    @property
    def q(self) -> Tensor:
        """The modes, unconstrained."""
        ...

    @property
    def log_prob(self) -> Tensor:
        """Log-density there."""
        ...

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of estimated shares of the mass."""
        ...

    @property
    def copies(self) -> Tensor:
        """The mode of which each is a symmetric copy; its own number for others."""
        ...

    @property
    def laplace(self) -> Laplace:
        """The normal density at each."""
        ...

    @property
    def layout(self) -> Layout:
        """Of the sites in `q`."""
        ...

    @property
    def searched(self) -> Mapping[str, Any]:
        """What was searched, name to number or text."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What to know before the weights are used."""
        ...

    def assign(self, q: Tensor) -> Tensor:
        """Say in which mode positions `(..., dim)` are; -1 for none, `(...)`."""
        ...

    def chain_modes(self, num_chains: int) -> Tensor:
        """Share chains out: the mode of each, `(num_chains,)`."""
        ...


class ModeStarts:
    r"""Chains shared out among modes.

    A chain of mode `k` starts at a draw of the normal density there,

    .. math:: q = \hat q_k + s\, H_k^{-1/2} z, \qquad z \sim N(0, 1),

    with `s` = 1, or less where the draw's own density is below what draws of the
    normal density have, or where it is nearer to another mode: such a chain would fall
    back with an energy that carries it out of its mode. Chains that all start at one
    point would leave R-hat nothing to compare.

    Args:
        modes: that chains start in.
        target: the density of the run.
        num_chains: of the run.

    Raises:
        LayoutMismatchError: the modes are of another model.
    """

    def __init__(self, modes: Modes, target: Target, num_chains: int) -> None:
        here, there = _shapes(target.layout), _shapes(modes.layout)
        if here != there:
            raise LayoutMismatchError(
                "the modes are of another model",
                where="argument initial_params, sites",
                found=there,
                expected=here,
                todo="Find the modes of this model, with the same arguments.",
            )
        self.modes, self.target = modes, target
        self.chains = interleaved(torch.as_tensor(modes.chain_modes(num_chains)).cpu())
        """The mode that each chain starts in, `(chains,)`."""
        self.first: Tensor | None = None
        """Where each chain starts, `(chains, dim)`; None before that is asked for."""

    @property
    def facts(self) -> dict[str, str | int]:
        """Attributes of the run: how many modes there are, and who starts where."""
        weights = self.modes.log_weights.double().exp().tolist()
        copies, chains = self.modes.copies.tolist(), self.chains.tolist()
        return facts_of_modes(weights, copies, chains, self.modes.searched)

    @property
    def known(self) -> ModeFacts:
        """The same, as whoever reads the attributes has them."""
        facts = ModeFacts.read(self.facts)
        assert facts is not None
        return facts

    @property
    def identity(self) -> dict[str, Tensor]:
        """What tells a run so started from others."""
        modes = self.modes
        parts = {f"precision {i}": x for i, x in enumerate(modes.laplace.precision)}
        return {"modes": modes.q, "chain_modes": self.chains, **parts}

    def positions(self, noise: BlockNoise) -> Tensor:
        """Start all chains.

        Args:
            noise: streams of the chains.

        Returns:
            Positions, `(chains, dim)`.

        Raises:
            InitializationError: the density is not finite at a mode.
        """
        target, modes = self.target, self.modes
        kind = {"dtype": target.dtype, "device": target.device}
        centre = modes.q.to(**kind)[self.chains]
        normal = noise.normal(target.dim, dtype=torch.float64)
        steps = self._normal_steps(normal).to(**kind)
        top = target.log_prob(modes.q.to(**kind))[self.chains]
        # one draw of a normal density in a thousand lies further below its mode
        half = target.dim / 2
        usual = half + 3 * half**0.5 + 3
        q, waiting = centre, torch.ones_like(top, dtype=torch.bool)
        for scale in _SCALES:
            trial = centre + scale * steps
            log_prob, grad = value_and_grad(target.log_prob, trial)
            good = log_prob.isfinite() & grad.isfinite().all(-1)
            if scale:
                own = modes.assign(trial.to(modes.q)).to(self.chains) == self.chains
                good &= (top - log_prob <= usual) & own.to(good.device)
            q = torch.where((waiting & good)[:, None], trial, q)
            waiting = waiting & ~good
        if bool(waiting.any()):
            chain = int(waiting.nonzero()[0])
            raise InitializationError(
                "a mode has no finite density",
                where=f"argument initial_params, chain {chain}, "
                f"mode {int(self.chains[chain])}",
                found=f"log-density {float(top[chain])}",
                expected="a finite log-density and gradient",
                todo="Find the modes of this model, with the same arguments.",
            )
        self.first = q
        return q

    def _normal_steps(self, normal: Tensor) -> Tensor:
        """Draws of the normal densities about zero, mode by mode."""
        precision = self.modes.laplace.precision
        steps = torch.empty_like(normal, dtype=self.modes.q.dtype)
        for k in self.chains.unique().tolist():
            rows = self.chains == k
            one = type(precision)(*(part[k] for part in precision))
            steps[rows] = one.sample_inverse(normal[rows].to(self.modes.q)).to(steps)
        return steps

    def labels(self, q: Tensor) -> dict[str, Tensor]:
        """Say in which mode draws are.

        Args:
            q: draws, `(chains, draws, dim)`.

        Returns:
            The statistic `mode`: numbers of modes, -1 for none, `(chains, draws)`.
        """
        finite = q.isfinite().all(-1)
        found = self.modes.assign(torch.where(finite[..., None], q, 0.0))
        return {"mode": torch.where(finite, found.to(q.device), -1)}

    def notes(self) -> list[str]:
        """Say what was searched, and what the modes' own notes are."""
        count, chains = len(self.modes.q), self.chains
        used = len(chains.unique())
        given = f"{count} mode{'s' if count > 1 else ''}"
        text = (
            f"Chains start in {used} of {given} given. R-hat cannot show a mode that "
            f"the search has missed; searched: {self.known.searched}."
        )
        notes = [text, *self.modes.notes]
        known = self.modes.log_prob.double()
        kind = {"dtype": self.target.dtype, "device": self.target.device}
        here = self.target.log_prob(self.modes.q.to(**kind)).to(known)
        eps = torch.finfo(self.target.dtype).eps
        far = (here - known).abs() > 0.01 + 1e4 * eps * (1 + known.abs())
        if bool(far.any()):
            k = int(far.double().argmax())
            notes.append(
                f"The log-density at mode {k} is {float(here[k]):.6g}, and was "
                f"{float(known[k]):.6g} when the modes were found: with other data "
                "their weights do not hold."
            )
        return notes


def interleaved(chains: Tensor) -> Tensor:
    """Order chains so that any first few of them are in as many modes as can be.

    Groups of chains run apart, and the first one tunes for all: it must know each mode.

    Args:
        chains: the mode of each chain, `(chains,)`.

    Returns:
        The same numbers in another order.

    Example:
        >>> interleaved(torch.tensor([0, 0, 0, 1, 1, 2])).tolist()
        [0, 1, 2, 0, 1, 0]
    """
    chains = chains.sort().values
    # how many chains before each are in the same mode
    turn = torch.arange(len(chains)) - torch.searchsorted(chains, chains)
    return chains[turn.argsort(stable=True)]


class ModeReview(NamedTuple):
    """What a finished run has to say of its modes.

    Attributes:
        attributes: of the run.
        notes: sentences.
        warnings: one where modes are not joined.
    """

    attributes: dict[str, str | int]
    notes: list[str]
    warnings: list[PyroGeoWarning]


def review_modes(labels: Tensor, starts: ModeStarts) -> ModeReview:
    """Say where the draws were, and whether chains have connected the modes.

    Args:
        labels: the mode of each draw, -1 for none, `(chains, draws)`.
        starts: of the run.

    Returns:
        What there is to say.
    """
    facts = starts.known
    tally = tally_modes(labels.cpu().numpy(), facts)
    attributes: dict[str, str | int] = {
        "mode_shares": " ".join(f"{share:.6g}" for share in tally.shares),
        "mode_unclaimed": f"{tally.unclaimed:.6g}",
        "mode_sets": len(tally.sets),
    }
    notes = []
    shown = ", ".join(
        f"{k}: {share:.3f} ({weight:.3f})"
        for k, (share, weight) in enumerate(
            zip(tally.shares[:_SHOWN], facts.weights, strict=False)
        )
    )
    more = ", ..." if len(facts.weights) > _SHOWN else ""
    rest = f"; {tally.unclaimed:.3f} in none" if tally.unclaimed else ""
    notes.append(f"Share of draws in each mode (its weight): {shown}{more}{rest}.")
    empty = np.flatnonzero(~np.isin(np.arange(len(facts.weights)), facts.chains))
    if empty.size:
        heaviest = facts.weights[empty].max()
        notes.append(
            f"No chain started in {empty.size} of the modes, the heaviest of weight "
            f"{heaviest:.3g}: there are fewer chains than modes."
        )
    if tally.left:
        notes.append(
            f"{tally.left} of {len(labels)} chains left the mode they started in: "
            "where modes are not joined, the shares of draws are not those of the "
            "weights."
        )
    if tally.moved:
        notes.append(f"{tally.moved} of {len(labels)} chains moved between modes.")
        r_hat = [_r_hat(labels == k) for k in range(len(facts.weights))]
        worst = int(np.argmax(r_hat))
        attributes["mode_r_hat"] = f"{r_hat[worst]:.6g}"
        if len(tally.sets) == 1 and r_hat[worst] > _SELDOM:
            return ModeReview(attributes, notes, [_seldom(worst, r_hat[worst])])
    return ModeReview(attributes, notes, _not_joined(tally, facts))


def _seldom(mode: int, r_hat: float) -> PyroGeoWarning:
    return ModesNotJoinedWarning(
        "chains move between modes too seldom",
        where="MCMC, argument initial_params",
        found=f"R-hat {r_hat:.3f} of being in mode {mode}",
        expected=f"at most {_SELDOM}",
        todo="The share of draws in each mode is not settled: run longer, or use more "
        "chains.",
    )


def _r_hat(there: Tensor) -> float:
    """R-hat of whether draws are in a mode, between halves of chains; 1 if all agree.

    Args:
        there: `(chains, draws)` boolean.

    Returns:
        The number.
    """
    half = there.shape[1] // 2
    if half < 2:
        return 1.0
    x = there[:, : 2 * half].double().reshape(-1, half)
    within, between = x.var(-1).mean(), x.mean(-1).var()
    if not bool(between > 0):
        return 1.0
    return float(((half - 1) / half + between / within).sqrt())


def _not_joined(tally: ModeTally, facts: ModeFacts) -> list[PyroGeoWarning]:
    if len(tally.sets) < 2:
        return []
    shown = " | ".join(
        " ".join(map(str, modes[:_SHOWN])) for modes in tally.sets[:_SHOWN]
    )
    more = " | ..." if len(tally.sets) > _SHOWN else ""
    roots = {frozenset(facts.copies[modes].tolist()) for modes in tally.sets}
    todo = (
        "The share of draws in each mode is that of the chains started there, which "
        "goes by the estimated weights: compare chains mode by mode, or weigh draws "
        "with weighted_by_mode()."
    )
    if len(roots) == 1:
        todo = (
            "They are copies by a symmetry of the model: what the symmetry leaves "
            "alone is right as it is, all else depends on who started where."
        )
    return [
        ModesNotJoinedWarning(
            "no chain connects the modes",
            where="MCMC, argument initial_params",
            found=f"{len(tally.sets)} sets of modes, {tally.moved} chains that moved: "
            f"{shown}{more}",
            expected="chains that visit several modes",
            todo=todo,
        )
    ]


def _shapes(layout: Layout) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {
        name: (tuple(site.shape), tuple(site.constrained_shape))
        for name, site in layout.sites.items()
    }
