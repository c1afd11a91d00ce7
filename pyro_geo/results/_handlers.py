"""Handlers that take the data of a model away and draw its sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.pyro import Subsample
from pyro_geo._compat.torch import dirichlet_of_beta, draw_dirichlet, is_batchedtensor
from pyro_geo.density.structure import base_distribution, is_deterministic
from pyro_geo.errors import ShapeError, UnsupportedError
from pyro_geo.ops.chunks import Sites

__all__ = ["Draw", "Keep", "Unobserve", "check_lanes"]


class Unobserve(Messenger):
    """Take the data away, so that observed sites are drawn."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or _is_computed(msg):
            return
        shape = torch.as_tensor(msg["value"]).shape
        batch = shape[: max(0, len(shape) - len(msg["fn"].event_shape))]
        wanted = torch.broadcast_shapes(batch, msg["fn"].batch_shape)
        if wanted != msg["fn"].batch_shape:  # one distribution for many data
            msg["fn"] = msg["fn"].expand(wanted)
        msg["is_observed"], msg["value"], msg["done"] = False, None, False


class Keep(Messenger):
    """Give discrete sites the values of the fit, where they are the sites of the fit.

    A site that has another shape under new arguments belongs to other data: it is
    drawn afresh.
    """

    def __init__(self, values: Sites) -> None:
        super().__init__()
        self.values = values
        self.kept: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        value = self.values.get(msg["name"])
        if (
            value is None
            or msg["fn"].batch_shape + msg["fn"].event_shape != value.shape
        ):
            return
        msg["value"], msg["done"] = value, True
        self.kept.append(msg["name"])


class Draw(Messenger):
    """Draw the sites without a value, by samplers that can be mapped where possible."""

    def __init__(self, values: Sites) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            _check_shape(msg)
        if msg["value"] is not None or isinstance(msg["fn"], Subsample):
            return
        try:
            msg["value"] = _sample(msg["fn"])
        except NotImplementedError as reason:
            raise UnsupportedError(
                "a site cannot be drawn",
                where=f"site {msg['name']!r}",
                found=f"{type(msg['fn']).__name__}: {reason}",
                expected="a distribution that can be sampled",
                todo="Give it a proper distribution, or do without these draws.",
            ) from reason
        msg["done"] = True


def _sample(fn: Any) -> Tensor:
    fn = base_distribution(fn)
    # their own samplers keep a derivative that vmap has no rule for
    if isinstance(fn, torch.distributions.Dirichlet):
        return draw_dirichlet(fn.concentration)
    if isinstance(fn, torch.distributions.Beta):
        return draw_dirichlet(dirichlet_of_beta(fn).concentration)[..., 0]
    return fn.sample()


def _is_computed(site: Mapping[str, Any]) -> bool:
    """Say whether a site is computed, not drawn: deterministic ones and factors."""
    return is_deterministic(site) or isinstance(site["fn"], dist.Unit)


def _check_shape(site: Mapping[str, Any]) -> None:
    """Refuse arguments under which a fitted site has another shape."""
    fn, value = site["fn"], site["value"]
    if (shape := fn.batch_shape + fn.event_shape) != value.shape:
        raise ShapeError(
            "a latent site belongs to the data it was fitted to",
            where=f"site {site['name']!r}",
            found=f"shape {tuple(shape)} under the new arguments",
            expected=f"shape {tuple(value.shape)}",
            todo="Pass arguments that leave the latent sites as they were.",
        )


def check_lanes(sites: Mapping[str, Any]) -> None:
    """Refuse randomness outside vmap, which would be the same in every lane."""
    for name, site in sites.items():
        base = base_distribution(site["fn"])
        drawn = not (site["is_observed"] or isinstance(base, dist.Delta))
        if drawn and not is_batchedtensor(site["value"]):
            raise RuntimeError(f"site {name!r} draws the same value for every lane")
