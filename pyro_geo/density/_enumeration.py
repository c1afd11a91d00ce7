"""Discrete latent sites with finitely many values, summed out exactly.

The model runs once with every value of these sites on an axis of its own, as under
Pyro's HMC; the log-probabilities are then contracted along these axes plate by plate.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pyro_geo._compat.pyro import (
    ShapeEnumMessenger,
    axis_names,
    enumerated_axis,
    ring_of_logs,
    symbol_of_axis,
    symbols,
)
from pyro_geo.density import _log_sum
from pyro_geo.density.sites import log_prob_of
from pyro_geo.density.structure import is_enumerable
from pyro_geo.errors import ShapeError, UnsupportedError

__all__ = ["Enumerate", "Joint"]

_SAMPLING = ("num_samples", "tmc")  # annotations of Monte Carlo sums


class Enumerate(ShapeEnumMessenger):
    """Give every discrete latent site all its values at once.

    Annotations that ask for less, a Monte Carlo sum or one value after the other, are
    overruled: the density has to be the exact sum.

    Args:
        first_available_dim: first axis, from the right, left of all plates.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if is_enumerable(msg):
            infer = {k: v for k, v in msg["infer"].items() if k not in _SAMPLING}
            msg["infer"] = {**infer, "enumerate": "parallel"}
        super()._pyro_sample(msg)


# Pyro's contraction of plates, with sums that never leave log space.
_LogSumRing = ring_of_logs(_log_sum.__name__)


class _Factor(NamedTuple):
    """Log-probability of one site, for every value of the discrete ones it follows."""

    name: str
    plates: frozenset[str]
    full: Tensor  # axes as Pyro has them
    log_prob: Tensor  # axes named by symbols, those of length one dropped
    summed: frozenset[str]  # symbols of discrete sites among these
    latent: bool
    observed: bool
    site: Mapping[str, Any]


class Joint:
    """All log-probabilities of one run of a model with enumerated sites.

    Args:
        trace: of the model, under :class:`Enumerate`.
        sites: its random sites, deterministic ones left out.
        latents: names of the continuous latent sites.
        scaled: as Pyro's potential counts: with the scales of `poutine.scale`, and
            every value of a masked discrete site. Otherwise each datum for itself.
    """

    def __init__(
        self,
        trace: poutine.Trace,
        sites: Iterable[tuple[str, Any]],
        latents: frozenset[str],
        *,
        scaled: bool = True,
    ) -> None:
        self.symbol_to_dim, plates = symbols(trace)
        self.summed = set(self.symbol_to_dim) - set(plates.values())
        self.sizes: dict[str, int] = {}  # of plates and discrete sites, by symbol
        self.factors: list[_Factor] = []
        for name, site in sites:
            full = _log_prob(name, site, scaled)
            log_prob = _pack(name, site, full)
            axes = axis_names(log_prob)
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            # an axis of length one is no axis of the packed tensor
            self.sizes.update({plates[f.name]: f.size for f in frames})
            self.sizes.update(zip(axes, log_prob.shape, strict=True))
            factor = _Factor(
                name,
                frozenset(plates[f.name] for f in frames),
                full,
                log_prob,
                frozenset(self.summed.intersection(axes)),
                latent=name in latents,
                observed=name not in latents and enumerated_axis(site) is None,
                site=site,
            )
            self.factors.append(factor)

    def terms(self, log_prior: Tensor) -> tuple[Tensor, Tensor]:
        r"""Log-density of the continuous latents, and of the data given these.

        A latent `x` that follows a discrete `z` has the prior
        :math:`\sum_z p(z) p(x \mid z)`.

        Args:
            log_prior: what to add to the log-prior, `()`.

        Returns:
            The log-prior and the log-likelihood, `()` each.
        """
        joined = []
        for factor in self.factors:
            if factor.latent and not factor.summed:
                log_prior = log_prior + factor.full.sum()
            else:
                joined.append(factor)
        both = self._contract(joined)
        # what the priors of latents that follow discrete sites sum up to by themselves
        unseen = [f for f in joined if not f.observed]
        parts = [p for p in _connected(unseen) if any(f.latent for f in p)]
        if not parts:
            return log_prior, both
        inner = self._contract([f for part in parts for f in part])
        return log_prior + inner, both - inner

    def site_log_probs(self) -> dict[str, Tensor]:
        """Log-probability of each site, at the likeliest values of the discrete ones.

        Returns:
            Name to a scalar, not finite where no values of the discrete sites help.
        """
        return {f.name: self._likeliest(f).sum() for f in self.factors}

    def pointwise(self) -> dict[str, Tensor]:
        """Log-likelihood of each datum, its own discrete sites summed out.

        Returns:
            Observed site to one value for each datum; masked ones are zero.
            :class:`~pyro_geo.errors.UnsupportedError` where discrete sites join data.
        """
        of = {f.name: part for part in _connected(self.factors) for f in part}
        return {
            f.name: self._each_datum(f, of[f.name]) if f.summed else f.full
            for f in self.factors
            if f.observed
        }

    def _likeliest(self, factor: _Factor) -> Tensor:
        names = axis_names(factor.log_prob)
        axes = tuple(names.index(symbol) for symbol in factor.summed)
        return factor.log_prob.amax(axes) if axes else factor.log_prob

    def _each_datum(self, datum: _Factor, part: Sequence[_Factor]) -> Tensor:
        _check_local(datum, part)
        log_prob: Any = self._contract(part, datum.plates)
        unseen = [f for f in part if not f.observed]
        if any(f.latent for f in unseen):  # given the latents that follow them
            log_prob = log_prob - self._contract(unseen, datum.plates)
        frames = [f for f in datum.site["cond_indep_stack"] if f.vectorized]
        shape = [1] * max((-f.dim for f in frames), default=0)
        for frame in frames:
            shape[frame.dim] = frame.size
        return log_prob.reshape(shape)

    def _contract(
        self, factors: Sequence[_Factor], plates: frozenset[str] = frozenset()
    ) -> Tensor:
        """Sum out all discrete sites, and multiply over all but these plates."""
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for factor in factors:
            tree.setdefault(factor.plates, []).append(factor.log_prob)
        with shared_intermediates() as cache:
            ring = _LogSumRing(cache, self.sizes)
            term = contract_to_tensor(tree, self.summed, plates, ring=ring)
        return packed.unpack(term, self.symbol_to_dim)


def _log_prob(name: str, site: Mapping[str, Any], scaled: bool) -> Tensor:
    log_prob, dim = log_prob_of(name, site), enumerated_axis(site)
    if scaled:
        return scale_and_mask(log_prob, site["scale"], site["mask"])
    if dim is None or site["mask"] is None:
        return scale_and_mask(log_prob, 1.0, site["mask"])
    # Pyro counts every value of a masked site, which adds the log of their number
    mask = torch.as_tensor(site["mask"], device=log_prob.device)
    return torch.where(mask, log_prob, -math.log(log_prob.shape[dim]))


def _pack(name: str, site: Mapping[str, Any], log_prob: Tensor) -> Tensor:
    try:
        return packed.pack(log_prob, symbol_of_axis(site))
    except ValueError as reason:
        raise ShapeError(
            "an axis belongs to no plate, which discrete latent sites need",
            where=f"site {name!r}",
            found=f"log-probabilities of shape {tuple(log_prob.shape)}",
            expected="axes of plates and of enumerated sites only",
            todo="Declare the axis with pyro.plate, or as an event with to_event.",
        ) from reason


def _connected(factors: Sequence[_Factor]) -> list[list[_Factor]]:
    """Group factors that share a discrete site, directly or through others."""
    groups: list[tuple[set[str], list[_Factor]]] = []
    for factor in factors:
        symbols, members = set(factor.summed), [factor]
        apart = []
        for group in groups:
            if group[0].isdisjoint(symbols):
                apart.append(group)
            else:
                symbols |= group[0]
                members = group[1] + members
        groups = [*apart, (symbols, members)]
    return [members for _, members in groups]


def _check_local(datum: _Factor, part: Sequence[_Factor]) -> None:
    """Refuse data that discrete sites join: they have no likelihoods of their own."""
    others = [f.name for f in part if f.observed and f.name != datum.name]
    wider = [f.name for f in part if not f.plates >= datum.plates]
    if not others and not wider:
        return
    joined = (others or wider)[:3]
    more = len(others or wider) - len(joined)
    raise UnsupportedError(
        "data that share a discrete latent have no log-likelihood each",
        where=f"site {datum.name!r}",
        found=f"a sum over discrete sites that joins it with {joined}"
        + f" and {more} more" * (more > 0),
        expected="discrete sites inside every plate of the one site they explain",
        todo="Use log_likelihood, which is exact for all data together.",
    )
