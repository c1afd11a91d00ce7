r"""Noise by its number, the same however a search is cut up or computed.

The words of a population are a hash of the search, of its iteration, of a key and of
their own number, so that no search changes the noise of another. A word :math:`u`,
scaled to :math:`[-c, c]` with :math:`c = \operatorname{erf}(a / \sqrt 2)`, becomes a
standard normal draw truncated to :math:`[-a, a]`,

.. math:: z = \sqrt 2 \operatorname{erf}^{-1}(u)

by a rational function up to :math:`a = 2`; beyond, by torch's inverse error function.

References:
    Jarzynski, Olano (2020), Hash Functions for GPU Rendering, Journal of Computer
    Graphics Techniques 9(3): the hash `pcg4d`.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_geo.optim.cem.rational import DOUBLE, SINGLE

__all__ = ["Drawn", "Given", "Noise", "Stream"]

_EDGE = 2.0  # the rational function is fitted up to here
# Seconds that loading the compiled loops takes, once, and what torch's operations take
# for a population and for each number in it. The numbers are the same either way, so
# when the loops are loaded changes no result.
_LOADING, _CALL, _EACH = 0.7, 200e-6, 3e-9
_KERNEL = "pyro_geo.optim.cem.kernel"


class _Account:
    """What torch's operations have taken in this process."""

    spent = 0.0


class Noise(Protocol):
    """Standard noise of a population of each search."""

    def standard(self) -> Tensor:
        """Give it, `(searches, pop_size, dim)`."""
        ...

    def placed(self, mean: Tensor, std: Tensor) -> Tensor:
        """Give it times a scale about a centre, both `(searches, dim)`."""
        ...


class Given(NamedTuple):
    """Noise that is given, `(searches, pop_size, dim)`."""

    z: Tensor

    def standard(self) -> Tensor:
        """Give the noise."""
        return self.z

    def placed(self, mean: Tensor, std: Tensor) -> Tensor:
        """Scale the noise about a centre."""
        return (self.z * std.unsqueeze(1)).add_(mean.unsqueeze(1))


class Stream:
    """All noise of one run.

    Args:
        generator: that its key is drawn from.
        trunc: where the noise is cut.
        planned: numbers that the run may draw.
        compiled: whether compiled loops make it; None for as soon as that pays.
    """

    def __init__(
        self,
        generator: torch.Generator,
        trunc: float,
        planned: float = 0.0,
        *,
        compiled: bool | None = None,
    ) -> None:
        words = (-(2**31), 2**31 - 1, (2,))
        key = torch.randint(*words, generator=generator, device=generator.device)
        self.key = (int(key[0]), int(key[1]))
        self.trunc = trunc
        self._compiled = compiled
        if compiled is None and planned * _EACH > _LOADING:
            self._compiled = True

    def compiles(self, numbers: int) -> bool:
        """Tell whether compiled loops make the next noise.

        Args:
            numbers: how many there will be.

        Returns:
            Whether they do.
        """
        if self.trunc > _EDGE:
            return False
        if self._compiled is not None:
            return self._compiled
        _Account.spent += _CALL + _EACH * numbers
        return _KERNEL in sys.modules or _Account.spent > _LOADING


class Drawn(NamedTuple):
    """Noise of a stream for one iteration of some searches.

    Attributes:
        stream: it is from.
        home: number of each search, `(searches,)`.
        iteration: of the run.
        pop_size: candidates of each search.
        like: whose dimensions, type and device it has, `(..., dim)`.
    """

    stream: Stream
    home: Tensor
    iteration: int
    pop_size: int
    like: Tensor

    def standard(self) -> Tensor:
        """Make the noise."""
        if self._compiles():
            ones = self.like.new_ones(len(self.home), self.like.shape[-1])
            return self._in_loops(torch.zeros_like(ones), ones)
        return self._by_operations()

    def placed(self, mean: Tensor, std: Tensor) -> Tensor:
        """Make the noise, scaled about a centre."""
        if self._compiles():
            return self._in_loops(mean, std)
        return self._by_operations().mul_(std.unsqueeze(1)).add_(mean.unsqueeze(1))

    def _compiles(self) -> bool:
        like = self.like
        if like.device.type != "cpu" or like.dtype not in (SINGLE.dtype, DOUBLE.dtype):
            return False
        return self.stream.compiles(len(self.home) * self.pop_size * like.shape[-1])

    def _by_operations(self) -> Tensor:
        dim, dtype = self.like.shape[-1], self.like.dtype
        # words of 32 bits do not fit in half precision
        wide = DOUBLE.dtype if dtype == DOUBLE.dtype else SINGLE.dtype
        words = _words(self._keys(), self.pop_size * dim, wide)
        z = _normal(words, self.stream.trunc).to(dtype)
        return z.view(-1, self.pop_size, dim)

    def _in_loops(self, mean: Tensor, std: Tensor) -> Tensor:
        from pyro_geo.optim.cem.kernel import place

        x = mean.new_empty(len(mean), self.pop_size, mean.shape[1])
        home, second, third = self._keys()
        place(home, second, third, _scale(self.stream.trunc, x.dtype), mean, std, x)
        return x

    def _keys(self) -> tuple[Tensor, int, int]:
        first, last = self.stream.key
        return self.home.to(torch.int32), _wrapped(self.iteration + first), last


def _wrapped(number: int) -> int:
    """Take an integer as a signed one of 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def _scale(trunc: float, dtype: torch.dtype) -> float:
    """Give what scales a signed word to where the inverse error function is taken."""
    edge = math.erf(trunc / math.sqrt(2.0))
    if math.isinf(trunc):
        edge = 1.0 - torch.finfo(dtype).eps  # it is infinite at one
    return edge * 2.0**-31


def _words(keys: tuple[Tensor, int, int], count: int, dtype: torch.dtype) -> Tensor:
    """Hash numbers to signed words, as floats, `(searches, count)`."""
    home, second, third = keys
    double = dtype == torch.float64
    blocks = -(-count // (2 if double else 4))
    step, shift = 1664525, 1013904223
    x = torch.arange(blocks, dtype=torch.int32, device=home.device) * step + shift
    y = (home * step + shift).unsqueeze(-1)
    z, w = _wrapped(second * step + shift), _wrapped(third * step + shift)
    x = x + y * w
    y = x * z + y
    z = (x * y).add_(z)
    w = (y * z).add_(w)
    x, y, z, w = [v.bitwise_xor_((v >> 16).bitwise_and_(0xFFFF)) for v in (x, y, z, w)]
    x += y * w
    y += z * x
    z += x * y
    w += y * z
    if not double:
        return torch.cat([x, y, z, w], -1)[:, :count].to(dtype)
    high, low = torch.cat([x, z], -1), torch.cat([y, w], -1)
    words = high.to(dtype).add_(low.to(dtype).mul_(2.0**-32).add_(0.5))
    return words[:, :count].contiguous()


def _normal(words: Tensor, trunc: float) -> Tensor:
    """Turn words into truncated normal draws, in place where the type allows it."""
    u = words.mul_(_scale(trunc, words.dtype))
    if trunc > _EDGE:
        return u.erfinv_().mul_(math.sqrt(2.0))
    fit = DOUBLE if u.dtype == DOUBLE.dtype else SINGLE
    v = (1.0 - u).mul_(1.0 + u)
    return u.mul_(_horner(fit.numerator, v).div_(_horner(fit.denominator, v)))


def _horner(coefficients: tuple[float, ...], v: Tensor) -> Tensor:
    *lower, last = coefficients
    value = torch.full_like(v, last)
    for coefficient in reversed(lower):
        value = value.mul_(v).add_(coefficient)
    return value
