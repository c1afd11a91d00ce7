"""Compiled loops over tensors in memory: one pass where torch needs three.

A step looks at tensors by their addresses, so that a thousand small ones cost one call.
Sums are taken over short blocks in the tensor's type, and over the blocks in double
precision: the ratio of two norms that nearly agree keeps its digits.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

__all__ = ["before", "settle", "shrink", "square"]

_BLOCK = 2048
_njit, _carray = cast(Any, numba).njit, cast(Any, numba).carray
# Sums may be taken in any order; NaN and infinity keep their meaning.
_fast = _njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)
_exact = _njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """Make a pointer of an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


_at = cast(Any, _pointer)


@_fast
def _both(p: Any, a: Any, g: Any) -> Any:
    dot, square = p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        d = p[i] - a[i]
        dot += d * g[i]
        square += d * d
    return dot, square


@_fast
def _both_from_zero(p: Any, g: Any) -> Any:
    dot, square = p.dtype.type(0), p.dtype.type(0)
    for i in range(p.size):
        dot += p[i] * g[i]
        square += p[i] * p[i]
    return dot, square


@_fast
def _square(p: Any, a: Any) -> Any:
    square = p.dtype.type(0)
    for i in range(p.size):
        d = p[i] - a[i]
        square += d * d
    return square


@_fast
def _square_from_zero(p: Any) -> Any:
    square = p.dtype.type(0)
    for i in range(p.size):
        square += p[i] * p[i]
    return square


@_exact
def _measure(p: Any, anchor: Any, g: Any) -> Any:
    dot, square = 0.0, 0.0
    if anchor == 0:
        for i in range(0, p.size, _BLOCK):
            u, s = _both_from_zero(p[i : i + _BLOCK], g[i : i + _BLOCK])
            dot += u
            square += s
    else:
        a = _carray(_at(anchor), p.size, dtype=p.dtype)
        for i in range(0, p.size, _BLOCK):
            j = i + _BLOCK
            u, s = _both(p[i:j], a[i:j], g[i:j])
            dot += u
            square += s
    return dot, square


@_exact
def _distance(p: Any, anchor: Any) -> Any:
    total = 0.0
    if anchor == 0:
        for i in range(0, p.size, _BLOCK):
            total += _square_from_zero(p[i : i + _BLOCK])
    else:
        a = _carray(_at(anchor), p.size, dtype=p.dtype)
        for i in range(0, p.size, _BLOCK):
            total += _square(p[i : i + _BLOCK], a[i : i + _BLOCK])
    return total


@_exact
def _shrink(p: Any, anchor: Any, share: Any) -> None:
    k = p.dtype.type(share)
    if anchor == 0:
        for i in range(p.size):
            p[i] -= k * p[i]
    else:
        a = _carray(_at(anchor), p.size, dtype=p.dtype)
        for i in range(p.size):
            p[i] -= k * (p[i] - a[i])


# In all four `like` is an empty array of the type of the tensors, `p`, `a` and `g` are
# addresses, and an anchor at address 0 stands for zeros. Rows of `records` are those of
# the bundle.


@_exact
def before(
    like: Any,
    p: Any,
    a: Any,
    g: Any,
    size: Any,
    sign: Any,
    beta: Any,
    track: Any,
    records: Any,
    dot: Any,
    square: Any,
) -> None:
    """Fill `<g, p - a>`, or its running mean, and the square of `|p - a|`."""
    for t in range(p.size):
        theta = _carray(_at(p[t]), size[t], dtype=like.dtype)
        slope = _carray(_at(g[t]), size[t], dtype=like.dtype)
        u, square[t] = _measure(theta, a[t], slope)
        u *= sign[t]
        if beta > 0:
            u = beta * records[8, t] + (1 - beta) * u
            records[8, t] = u
        dot[t] = u
        if track:
            norm = np.sqrt(square[t])
            growth = norm + records[7, t] - records[6, t]
            if records[6, t] >= 0 and growth > 0:
                records[4, t] += growth
            records[6, t] = norm


@_exact
def settle(
    like: Any,
    p: Any,
    a: Any,
    size: Any,
    dot: Any,
    square: Any,
    spd: Any,
    limited: Any,
    track: Any,
    records: Any,
) -> None:
    """Decay each tensor by its own rule.

    A tensor whose gradient agrees is not even read: its entries stay as they are.
    """
    for t in range(p.size):
        share, ratio, after = 0.0, 0.0, 0.0
        if dot[t] > 0 and spd[t] > 0:
            theta = _carray(_at(p[t]), size[t], dtype=like.dtype)
            wide = _distance(theta, a[t])
            if wide > square[t]:
                after = np.sqrt(wide)
                ratio = 1 - np.sqrt(square[t]) / after
                share = spd[t] * ratio
                if limited and share > 1:
                    share = 1.0
                _shrink(theta, a[t], share)
        if track:
            records[0, t] += 1
            records[1, t] += dot[t] > 0
            records[2, t] += share > 0
            records[3, t] += ratio
            records[5, t] += share * after
            # what is left of the norm is |1 - k| of it
            records[7, t] = after - abs(1 - share) * after


@_exact
def square(like: Any, p: Any, a: Any, size: Any, total: Any) -> None:
    """Fill the square of `|p - a|`."""
    for t in range(p.size):
        theta = _carray(_at(p[t]), size[t], dtype=like.dtype)
        total[t] = _distance(theta, a[t])


@_exact
def shrink(like: Any, p: Any, a: Any, size: Any, share: Any) -> None:
    """Take a share of `p - a` off, in place."""
    for t in range(p.size):
        if share[t] > 0:
            theta = _carray(_at(p[t]), size[t], dtype=like.dtype)
            _shrink(theta, a[t], share[t])
