"""Discrete latent sites with finitely many values, summed out exactly.

The model runs once with every value of these sites on an axis of its own, as under
Pyro's HMC; the log-probabilities are then contracted along these axes plate by plate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from torch import Tensor

from pyro_geo._compat.pyro import (
    ShapeEnumMessenger,
    axis_names,
    enumerated_axis,
    name_axes,
    ring_of_logs,
    symbol_of_axis,
    symbols,
)
from pyro_geo.density import _log_sum
from pyro_geo.density._discrete import PickingRing
from pyro_geo.density._factors import (
    Factor,
    Unit,
    connected,
    pack,
    plated_shape,
    site_log_prob,
    units_of,
)
from pyro_geo.density._steps import datum_log_prob
from pyro_geo.density.structure import is_enumerable

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
        self.symbol_of_plate = plates
        self.summed = set(self.symbol_to_dim) - set(plates.values())
        self.sizes: dict[str, int] = {}  # of plates and discrete sites, by symbol
        self.factors: list[Factor] = []
        for name, site in sites:
            full = site_log_prob(name, site, scaled)
            log_prob = pack(name, site, full)
            axes = axis_names(log_prob)
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            frames.sort(key=lambda frame: frame.dim)
            # an axis of length one is no axis of the packed tensor
            self.sizes.update({plates[f.name]: f.size for f in frames})
            self.sizes.update(zip(axes, log_prob.shape, strict=True))
            factor = Factor(
                name,
                tuple(frames),
                tuple(plates[f.name] for f in frames),
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
        groups = [g for g in connected(unobserved) if any(f.latent for f in g)]
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

    def pointwise(self, steps: bool = False) -> dict[str, Tensor]:
        """Log-likelihood of each unit of data, its discrete sites summed out.

        Data that share no discrete site are a unit each. The others are joined to the
        smallest units that share none.

        Args:
            steps: whether the steps of a sequence are data of their own, where its
                site shares no discrete one.

        Returns:
            Name of the unit to its values, see :func:`units_of`; masked data count
            zero.
        """
        return {name: self._each(unit, steps) for name, unit in self.units().items()}

    def units(self) -> dict[str, Unit]:
        """Return the units of :meth:`pointwise`."""
        return units_of(self.factors)

    def draw(self, uniforms: Tensor | None) -> dict[str, Tensor]:
        """Values of all discrete sites together, given everything else.

        Scales are left out, masks are not.

        Args:
            uniforms: see :class:`~pyro_geo.density._discrete.PickingRing`; None for the
                likeliest values.

        Returns:
            Site to value, without axes of plates where its site has none.
        """
        group = [f for f in self.factors if f.summed]
        plates = frozenset(self.symbol_of_plate.values())
        ring = PickingRing(self.sizes, plates, uniforms)

        def total(log_probs: list[Tensor]) -> Tensor:
            named = [
                f._replace(log_prob=name_axes(x, axis_names(f.log_prob)))
                for f, x in zip(group, log_probs, strict=True)
            ]
            return self._contract(named, ring=ring)

        marks = torch.func.grad(total)([f.log_prob.detach() for f in group])
        marked = {f.name: mark for f, mark in zip(group, marks, strict=True)}
        return {
            f.name: self._picked(f, marked.get(f.name))
            for f in self.factors
            if enumerated_axis(f.site) is not None
        }

    def _picked(self, factor: Factor, marks: Tensor | None) -> Tensor:
        """Take the values of a discrete site that are marked."""
        site, axis = factor.site, enumerated_axis(factor.site)
        value, events = site["value"], site["fn"].event_dim
        shape = plated_shape(factor.frames)
        assert axis is not None
        own = symbol_of_axis(site).get(axis, "")
        if marks is None or own not in factor.summed:  # a site with a single value
            event = value.shape[value.dim() - events :]
            return value.reshape(event).expand(shape + event)
        names = axis_names(factor.log_prob)
        for symbol in factor.summed - {own}:
            marks = marks.sum(names.index(symbol))
            names = names.replace(symbol, "")
        index = name_axes(marks.argmax(names.index(own)), names.replace(own, ""))
        index = packed.unpack(index, self.symbol_to_dim)
        # the axes of the value: its own values, those of plates, those of the event
        left = value.dim() - events - index.dim()
        index = index.reshape((1,) * left + index.shape + (1,) * events)
        picked = torch.take_along_dim(value, index, axis - events)
        event = picked.shape[picked.dim() - events :]
        return picked.reshape(shape + event)

    def _likeliest(self, factor: Factor) -> Tensor:
        names = axis_names(factor.log_prob)
        axes = tuple(names.index(symbol) for symbol in factor.summed)
        return factor.log_prob.amax(axes) if axes else factor.log_prob

    def _each(self, unit: Unit, steps: bool) -> Tensor:
        """Sum out the discrete sites of every entry of a unit."""
        if not any(f.summed for f in unit.factors):  # a single observed site
            factor = unit.factors[0]
            return datum_log_prob(factor.name, factor.site, steps)
        plates = frozenset(self.symbol_of_plate[frame.name] for frame in unit.frames)
        log_prob: Any = self._contract(unit.factors, plates)
        unobserved = [f for f in unit.factors if not f.observed]
        # p(data | latents) = p(data, latents) / p(latents)
        if any(f.latent for f in unobserved):
            log_prob = log_prob - self._contract(unobserved, plates)
        return log_prob.reshape(unit.shape)

    def _contract(
        self,
        factors: Sequence[Factor],
        plates: frozenset[str] = frozenset(),
        ring: LogRing | None = None,
    ) -> Tensor:
        """Sum out all discrete sites, and multiply over all plates but these."""
        # variable elimination over plates (Obermeyer et al. 2019, Tensor variable
        # elimination for plated factor graphs, 1902.03210, algorithm 1)
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for factor in factors:
            tree.setdefault(factor.plates, []).append(factor.log_prob)
        with shared_intermediates() as cache:
            ring = ring or _LogSumRing(cache, self.sizes)
            term = contract_to_tensor(tree, self.summed, plates, ring=ring)
        return packed.unpack(term, self.symbol_to_dim)
