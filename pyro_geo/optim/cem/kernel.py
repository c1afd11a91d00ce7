"""Noise and candidates in compiled loops; number for number those of `noise`.

Inductor makes code of the same speed, but takes ten times as long for it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_geo.optim.cem.rational import DOUBLE, SINGLE

__all__ = ["place"]

# all in one file, as the cache on disk sees changes of a function's own file alone
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy")

_U = np.uint32
_F = np.float32
_STEP, _SHIFT, _HALF = _U(1664525), _U(1013904223), _U(16)
_ONE = _F(1.0)
_P0, _P1, _P2, _P3, _P4 = [_F(c) for c in SINGLE.numerator]
_Q0, _Q1, _Q2, _Q3, _Q4 = [_F(c) for c in SINGLE.denominator]
_A0, _A1, _A2, _A3, _A4, _A5, _A6, _A7 = DOUBLE.numerator
_B0, _B1, _B2, _B3, _B4, _B5, _B6, _B7 = DOUBLE.denominator


@_compiled
def _hash(block: Any, home: Any, second: Any, third: Any) -> tuple[Any, Any, Any, Any]:
    x = _U(_U(block * _STEP) + _SHIFT)
    y = _U(_U(home * _STEP) + _SHIFT)
    z = _U(_U(second * _STEP) + _SHIFT)
    w = _U(_U(third * _STEP) + _SHIFT)
    x = _U(x + _U(y * w))
    y = _U(y + _U(z * x))
    z = _U(z + _U(x * y))
    w = _U(w + _U(y * z))
    x = _U(x ^ (x >> _HALF))
    y = _U(y ^ (y >> _HALF))
    z = _U(z ^ (z >> _HALF))
    w = _U(w ^ (w >> _HALF))
    x = _U(x + _U(y * w))
    y = _U(y + _U(z * x))
    z = _U(z + _U(x * y))
    w = _U(w + _U(y * z))
    return x, y, z, w


@_compiled
def _single(u: Any) -> Any:
    v = (_ONE - u) * (_ONE + u)
    top = (((_P4 * v + _P3) * v + _P2) * v + _P1) * v + _P0
    return u * (top / ((((_Q4 * v + _Q3) * v + _Q2) * v + _Q1) * v + _Q0))


@_compiled
def _double(u: Any) -> Any:
    v = (1.0 - u) * (1.0 + u)
    top = (((_A7 * v + _A6) * v + _A5) * v + _A4) * v + _A3
    top = ((top * v + _A2) * v + _A1) * v + _A0
    low = (((_B7 * v + _B6) * v + _B5) * v + _B4) * v + _B3
    return u * (top / (((low * v + _B2) * v + _B1) * v + _B0))


@_compiled
def _place_single(
    home: Any, second: Any, third: Any, scale: Any, mean: Any, std: Any, out: Any
) -> None:
    searches, size, dim = out.shape
    blocks = (size * dim + 3) // 4
    z = np.empty((4, blocks), np.float32)
    flat = z.reshape(4 * blocks)
    for i in range(searches):
        for j in range(blocks):
            a, b, c, d = _hash(_U(j), home[i], second, third)
            z[0, j] = _single(_F(np.int32(a)) * scale)
            z[1, j] = _single(_F(np.int32(b)) * scale)
            z[2, j] = _single(_F(np.int32(c)) * scale)
            z[3, j] = _single(_F(np.int32(d)) * scale)
        for row in range(size):
            for k in range(dim):
                out[i, row, k] = flat[row * dim + k] * std[i, k] + mean[i, k]


@_compiled
def _place_double(
    home: Any, second: Any, third: Any, scale: Any, mean: Any, std: Any, out: Any
) -> None:
    searches, size, dim = out.shape
    blocks = (size * dim + 1) // 2
    z = np.empty((2, blocks), np.float64)
    flat = z.reshape(2 * blocks)
    small = 2.0**-32
    for i in range(searches):
        for j in range(blocks):
            a, b, c, d = _hash(_U(j), home[i], second, third)
            low = np.float64(np.int32(b)) * small + 0.5
            z[0, j] = _double((np.float64(np.int32(a)) + low) * scale)
            low = np.float64(np.int32(d)) * small + 0.5
            z[1, j] = _double((np.float64(np.int32(c)) + low) * scale)
        for row in range(size):
            for k in range(dim):
                out[i, row, k] = flat[row * dim + k] * std[i, k] + mean[i, k]


def place(
    home: Tensor,
    second: int,
    third: int,
    scale: float,
    mean: Tensor,
    std: Tensor,
    out: Tensor,
) -> None:
    """Fill candidates in.

    Args:
        home: number of each search, `(searches,)`, of 32 bits.
        second: a signed word of the key.
        third: another.
        scale: of words.
        mean: centres, `(searches, dim)`.
        std: what the noise is multiplied by, `(searches, dim)`.
        out: candidates, `(searches, pop_size, dim)`.
    """
    single = out.dtype == torch.float32
    fill = _place_single if single else _place_double
    fill(
        home.numpy().view(_U),
        _U(second % 2**32),
        _U(third % 2**32),
        _F(scale) if single else scale,
        mean.contiguous().numpy(),
        std.contiguous().numpy(),
        out.numpy(),
    )
