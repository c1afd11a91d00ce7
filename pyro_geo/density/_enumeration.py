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

    Annotations that ask for a Monte Carlo sum, or for one value after the other, are
    ignored: the density has to be the exact sum.

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
    """Log-probability of one site, for every value of the discrete sites before it.

    Attributes:
        name: of the site.
        plates: symbols of its plates.
        full: log-probability with the axes that Pyro gave it.
        log_prob: the same with axes named by symbols, those of length one dropped.
        summed: symbols of the discrete sites among its axes.
        latent: whether it is a continuous latent site.
        observed: whether it is data.
        site: its message in the trace.
    """

    name: str
    plates: frozenset[str]
    full: Tensor
    log_prob: Tensor
    summed: frozenset[str]
    latent: bool
    observed: bool
    site: Mapping[str, Any]


class Joint:
    """All log-probabilities of one run of a model with enumerated sites.

    Args:
        trace: of the model, under :class:`Enumerate`.
        sites: its random sites, deterministic ones left out.
        latents: names of the continuous latent sites.
        scaled: multiply by the scales of `poutine.scale` and count every value of a
            masked discrete site, as Pyro's potential does. If False, each datum counts
            once.
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
        rest = []
        for factor in self.factors:
            if factor.latent and not factor.summed:
                log_prior = log_prior + factor.full.sum()
            else:
                rest.append(factor)
        joint = self._contract(rest)
        # The same sum without the data is the prior of the latents that follow
        # discrete sites; the likelihood is what the data add to it.
        unobserved = [f for f in rest if not f.observed]
        groups = [g for g in _connected(unobserved) if any(f.latent for f in g)]
        if not groups:
            return log_prior, joint
        prior = self._contract([f for group in groups for f in group])
        return log_prior + prior, joint - prior

    def site_log_probs(self) -> dict[str, Tensor]:
        """Log-probability of each site, at the likeliest values of the discrete ones.

        Returns:
            Name to a scalar. It is finite if any values of the discrete sites make it
            so.
        """
        return {f.name: self._likeliest(f).sum() for f in self.factors}

    def pointwise(self) -> dict[str, Tensor]:
        """Log-likelihood of each datum, its own discrete sites summed out.

        Returns:
            Observed site to one value for each datum; masked ones are zero. Data that
            share a discrete site raise :class:`~pyro_geo.errors.UnsupportedError`.
        """
        group_of = {f.name: group for group in _connected(self.factors) for f in group}
        return {
            f.name: self._each_datum(f, group_of[f.name]) if f.summed else f.full
            for f in self.factors
            if f.observed
        }

    def _likeliest(self, factor: _Factor) -> Tensor:
        names = axis_names(factor.log_prob)
        axes = tuple(names.index(symbol) for symbol in factor.summed)
        return factor.log_prob.amax(axes) if axes else factor.log_prob

    def _each_datum(self, datum: _Factor, group: Sequence[_Factor]) -> Tensor:
        """Sum out the discrete sites of every datum of one observed site."""
        _check_local(datum, group)
        log_prob: Any = self._contract(group, datum.plates)
        unobserved = [f for f in group if not f.observed]
        # p(datum | latents) = p(datum, latents) / p(latents)
        if any(f.latent for f in unobserved):
            log_prob = log_prob - self._contract(unobserved, datum.plates)
        # back to the shape of the site, with its plates where Pyro has them
        frames = [f for f in datum.site["cond_indep_stack"] if f.vectorized]
        shape = [1] * max((-f.dim for f in frames), default=0)
        for frame in frames:
            shape[frame.dim] = frame.size
        return log_prob.reshape(shape)

    def _contract(
        self, factors: Sequence[_Factor], plates: frozenset[str] = frozenset()
    ) -> Tensor:
        """Sum out all discrete sites, and multiply over all plates but these."""
        # variable elimination over plates (Obermeyer et al. 2019, Tensor variable
        # elimination for plated factor graphs, 1902.03210, algorithm 1)
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
    # Where a discrete site is masked, Pyro sums a one for each of its k values. A
    # probability of 1/k for each keeps that sum from changing the data's likelihood.
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
        separate = []
        for group in groups:
            if group[0].isdisjoint(symbols):
                separate.append(group)
            else:  # this factor joins the group to its own
                symbols |= group[0]
                members = group[1] + members
        groups = [*separate, (symbols, members)]
    return [members for _, members in groups]


def _check_local(datum: _Factor, group: Sequence[_Factor]) -> None:
    """Refuse data that share a discrete site: no datum has a likelihood of its own."""
    others = [f.name for f in group if f.observed and f.name != datum.name]
    wider = [f.name for f in group if not f.plates >= datum.plates]
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
