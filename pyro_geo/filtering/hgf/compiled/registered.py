"""Operators of torch that filter lanes, with their shapes and batching rules.

An operator is opaque: tracing, compiling and mapping keep it as one operation. Results
and `theta` have one row for each lane.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_geo.filtering.hgf._operators import register
from pyro_geo.filtering.hgf.compiled.running import Options, Wanted, run
from pyro_geo.filtering.hgf.compiled.second import second_derivatives
from pyro_geo.filtering.hgf.parameters import HGFInputs

__all__ = ["NUM_DATA", "OPERATORS", "no_weights"]

_DATA = "Tensor theta, Tensor u, Tensor observed, Tensor time, Tensor signs"
_PULL = "Tensor d_surprise, Tensor d_mu, Tensor d_pi"
_OPTIONS = "int levels, int binary, int update, int noise, int coupled"
NUM_DATA = 5
"""How many tensors describe what is filtered: parameters, then rows of steps."""


# the number of tensors is that of the schema
_filter: Any = run


def no_weights(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights of no surprise and no belief."""
    lanes = theta.shape[0]
    return (
        theta.new_empty(lanes, 0),
        theta.new_empty(lanes, 0, 0),
        theta.new_empty(lanes, 0, 0),
    )


def _surprise(theta: Tensor, *rest: Any) -> Tensor:
    *data, options = _split(rest)
    return _filter(options, Wanted(surprise=True), theta, *data, *no_weights(theta))[0]


def _split(rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take data and options apart."""
    return *rest[: NUM_DATA - 1], Options(*rest[NUM_DATA - 1 :])


def _surprise_shape(theta: Tensor, u: Tensor, *rest: Any) -> Tensor:
    return theta.new_empty(theta.shape[0], u.shape[1])


def _beliefs(theta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *data, options = _split(rest)
    results = _filter(options, Wanted(beliefs=True), theta, *data, *no_weights(theta))
    return results[1], results[2]


def _beliefs_shape(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = theta.shape[0], u.shape[1], _split((u, *rest))[-1].levels
    return theta.new_empty(shape), theta.new_empty(shape)


def _total(theta: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *data, options = _split(rest[:-1])
    wanted = Wanted(total=True, gradient=True, gradient_by_u=bool(rest[-1]))
    results = _filter(options, wanted, theta, *data, *no_weights(theta))
    return results[3], results[4], _lanes_first(results[5], theta)


def _lanes_first(by_u: Tensor, theta: Tensor) -> Tensor:
    return by_u if by_u.numel() else theta.new_empty(theta.shape[0], 0)


def _total_shape(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    lanes = theta.shape[0]
    by_u = theta.new_empty(lanes, u.shape[1] if rest[-1] else 0)
    return theta.new_empty(lanes), torch.empty_like(theta), by_u


def _pull(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    observed, time, signs, d_surprise, d_mu, d_pi, *options, by_u = rest
    wanted = Wanted(gradient=True, gradient_by_u=bool(by_u))
    given = theta, u, observed, time, signs, d_surprise, d_mu, d_pi
    results = _filter(Options(*options), wanted, *given)
    return results[4], _lanes_first(results[5], theta)


def _pull_shape(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    by_u = theta.new_empty(theta.shape[0], u.shape[1] if rest[-1] else 0)
    return torch.empty_like(theta), by_u


def _second(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    observed, time, signs, d_surprise, d_mu, d_pi, along, along_u, *options = rest
    return second_derivatives(
        Options(*options),
        HGFInputs(u, observed, time),
        signs,
        theta,
        (d_surprise, d_mu, d_pi),
        (along, along_u),
    )


def _second_shape(theta: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, *pulls, along, along_u = rest[:8]
    return tuple(torch.empty_like(x) for x in (along, along_u, *pulls))


_register = partial(register, rows=NUM_DATA - 1)

_register(
    "hgf_surprise", f"({_DATA}, {_OPTIONS}) -> Tensor", _surprise, _surprise_shape
)
_register(
    "hgf_beliefs",
    f"({_DATA}, {_OPTIONS}) -> (Tensor, Tensor)",
    _beliefs,
    _beliefs_shape,
)
_register(
    "hgf_total",
    f"({_DATA}, {_OPTIONS}, int by_u) -> (Tensor, Tensor, Tensor)",
    _total,
    _total_shape,
)
_register(
    "hgf_pull",
    f"({_DATA}, {_PULL}, {_OPTIONS}, int by_u) -> (Tensor, Tensor)",
    _pull,
    _pull_shape,
)
_register(
    "hgf_second",
    f"({_DATA}, {_PULL}, Tensor along, Tensor along_u, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _second,
    _second_shape,
)

OPERATORS = torch.ops.pyro_geo
"""Where torch keeps them."""
