"""Any distribution of one number with a mode, on its set of highest density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_geo._compat.torch import validates
from pyro_geo.checks import check, check_shape
from pyro_geo.density.sites import unvalidated
from pyro_geo.distributions.bounded._ball import check_kappa, check_range
from pyro_geo.distributions.bounded._bounded import uniforms
from pyro_geo.distributions.bounded._interval import BoundedInterval
from pyro_geo.distributions.bounded._mean import log_integral
from pyro_geo.distributions.bounded._quantile import quantile
from pyro_geo.distributions.bounded._tensors import log_field, some_tensor
from pyro_geo.errors import BallSpecError

__all__ = ["BoundedLevelSet"]

_HALVINGS = 64
_OPEN, _CLOSED = (-60.0, 60.0), (-60.0, 700.0)  # searched on an open and a closed side


class BoundedLevelSet(BoundedInterval):
    r"""A distribution of one number on its set of highest density.

    .. math:: p(x) = \frac{1}{Z} \, p_{\text{base}}(x) \,
        \left(1 - \frac{I(x)}{c}\right)_+^\kappa , \quad
        I(x) = \log \frac{p_{\text{base}}(\hat x)}{p_{\text{base}}(x)}

    The shortest interval of its mass. It depends on how the variable is measured: that
    of a logarithm is another set. :class:`~pyro_geo.distributions.BoundedUnivariate`
    is cut by tails, which do not. Outside the log-density is minus infinity, and a
    value there is no error.

    Args:
        base: a distribution of one number with one mode that it knows.
        nats: largest surprisal :math:`c` in the set; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard set.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> import pyro.distributions as dist
        >>> logs = BoundedLevelSet(dist.LogNormal(0.0, 1.0), nats=2.0)
        >>> low, _, high = logs.ends()
        >>> round(low.log().item(), 5), round(high.log().item(), 5)
        (-3.0, 1.0)
    """

    def __init__(
        self,
        base: Any,
        *,
        nats: float | Tensor,
        kappa: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        check_shape("base", base.event_shape, ())
        checks = validates(self) if validate_args is None else validate_args
        check_range("nats", nats, math.inf, checks)
        self.kappa = check_kappa(kappa)
        kind = some_tensor(base)
        limit = torch.as_tensor(nats, dtype=kind.dtype, device=kind.device)
        batch = torch.broadcast_shapes(base.batch_shape, limit.shape)
        self.base = unvalidated(base.expand(batch))
        self._nats = limit.expand(batch)
        if checks:
            good = bool(self.base.log_prob(self.base.mode).isfinite().all())
            expected = "a density that is finite at one mode"
            check(good, "base", base, expected, error=BallSpecError)
        super().__init__(batch, torch.Size(), validate_args=validate_args)

    @property
    def nats(self) -> Tensor:
        """Largest surprisal in the set, `batch_shape`."""
        return self._nats

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Give the distribution a batch shape.

        Args:
            batch_shape: to which its own broadcasts.

        Returns:
            The distribution with expanded parameters.
        """
        batch_shape = torch.Size(batch_shape)
        new = type(self).__new__(type(self))
        new.base, new.kappa = self.base.expand(batch_shape), self.kappa
        new._nats = self._nats.expand(batch_shape)
        TorchDistribution.__init__(
            new, batch_shape, torch.Size(), validate_args=validates(self)
        )
        return new

    # -- the set ----------------------------------------------------------------------

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower end, mode and upper end, differentiable.

        Returns:
            Three points, `batch_shape`.
        """
        mode = self.base.mode
        support = self.base.support
        low = self._end(mode, getattr(support, "lower_bound", None), -1.0)
        high = self._end(mode, getattr(support, "upper_bound", None), 1.0)
        return low, mode, high

    def _end(self, mode: Tensor, bound: Any, side: float) -> Tensor:
        """Find where the surprisal is `nats` on one side of the mode."""
        top = self.base.log_prob(mode)

        def at(s: Tensor) -> Tensor:
            if bound is None:
                return mode + side * torch.exp(s)
            return bound + (mode - bound) * torch.sigmoid(-s)

        with torch.no_grad():
            first, last = _OPEN if bound is None else _CLOSED
            low, high = torch.full_like(mode, first), torch.full_like(mode, last)
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                inside = top - self.base.log_prob(at(middle)) < self.nats
                low = torch.where(inside, middle, low)
                high = torch.where(inside, high, middle)
            x = at(low)
            # the density may end before its surprisal gets that far
            found = high < last
        x = x.detach()
        for _ in range(2):
            ones = torch.ones_like(x)
            log_prob, slope = torch.func.jvp(self.base.log_prob, (x,), (ones,))[:2]
            # torch may give the slope in double precision
            slope = torch.where(found, slope.to(x), 1.0)
            step = (log_prob - top + self.nats) / slope
            x = torch.where(found, x - step, x)
        return x

    def log_weight(self, x: Tensor) -> Tensor:
        """Unnormalised log-density inside the set, in the type of the points.

        Args:
            x: points of the set, `(..., *batch)`.

        Returns:
            The logarithm.
        """
        value = self.base.log_prob(x)
        if not self.kappa:
            return value
        share = (self.base.log_prob(self.base.mode) - value) / self.nats
        return value + log_field(share, self.kappa)

    @property
    def log_mass(self) -> Tensor:
        """Logarithm of the probability of the set under the base, `batch_shape`."""
        ends = [x.double() for x in self.ends()]
        return log_integral(self.base.log_prob, ends).to(self.nats.dtype)

    @property
    def log_normalizer(self) -> Tensor:
        """Logarithm of the mean of the field under the base, `batch_shape`."""
        ends = [x.double() for x in self.ends()]
        return log_integral(self.log_weight, ends).to(self.nats.dtype)

    def kl_to_base(self) -> Tensor:
        """Divergence from the base in nats.

        Returns:
            The divergence, `batch_shape`.
        """
        divergence = -self.log_normalizer
        if self.kappa:
            gap = self.mean_of(lambda x: self.log_weight(x) - self.base.log_prob(x))
            divergence = divergence + gap.to(divergence)
        return divergence

    # -- the distribution -------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density; minus infinity outside the set.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The log-density, same shape.
        """
        low, mode, high = ends = self.ends()
        inside = (value >= low) & (value <= high)
        x = torch.where(inside, value, mode.detach())
        total = log_integral(self.log_weight, [x.double() for x in ends])
        log_prob = self.log_weight(x) - total.to(x)
        return torch.where(inside, log_prob, -torch.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of lying below.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The probability, same shape.
        """
        low, mode, high = (x.double() for x in self.ends())
        x = torch.minimum(torch.maximum(value.double(), low), high)
        below = [low + 0 * x, torch.minimum(mode, x), x]
        above = [x, torch.maximum(mode, x), high + 0 * x]
        parts = [log_integral(self.log_weight, ends) for ends in (below, above)]
        share = torch.sigmoid(parts[0] - parts[1])
        return share.to(value.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Number below which a probability lies, differentiable.

        Args:
            value: probabilities, `(*sample, *batch)`.

        Returns:
            The numbers, same shape.
        """
        inner = (value > 0) & (value < 1)
        p = torch.where(inner, value.double(), 0.5)
        x = self._quantile(torch.log(p), torch.log1p(-p)).to(value.dtype)
        low, _, high = self.ends()
        x = torch.where(value == 0, low, torch.where(value == 1, high, x))
        return torch.where((value < 0) | (value > 1), torch.nan, x)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw numbers; gradients flow to every parameter.

        Args:
            sample_shape: how many.

        Returns:
            Numbers, `(*sample_shape, *batch)`.
        """
        u = uniforms(torch.Size(sample_shape) + self.batch_shape, self.nats)
        return self._quantile(torch.log(u), torch.log1p(-u)).to(self.nats.dtype)

    def _quantile(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        low, _, high = (x.double() for x in self.ends())
        width = high - low

        def log_density(t: Tensor, rest: Tensor) -> Tensor:
            x = torch.where(t < 0.5, low + width * t, high - width * rest)
            return self.log_weight(x)

        return low + width * quantile(log_density, low, log_p, log_q)
