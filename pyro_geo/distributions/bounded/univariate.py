"""Any distribution of one number, cut off in both tails alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import Gamma, TorchDistribution
from torch import Tensor
from torch.distributions import biject_to

from pyro_geo._compat.torch import validates
from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.density.sites import unvalidated
from pyro_geo.distributions.bounded._interval import BoundedInterval
from pyro_geo.distributions.bounded._place import (
    check_quantiles,
    place,
    signed_tail,
)
from pyro_geo.distributions.bounded._tensors import log_field, some_tensor
from pyro_geo.distributions.bounded.laplace import BoundedLaplace
from pyro_geo.errors import BallSpecError

__all__ = ["BoundedGamma", "BoundedUnivariate"]


class BoundedUnivariate(BoundedInterval):
    r"""A distribution of one number on its central set.

    .. math:: p(x) = \frac{1}{Z} \, p_{\text{base}}(x) \,
        \left(1 - \frac{I(x)}{c}\right)_+^\kappa , \quad
        I(x) = -\log(2 \min(F(x), 1 - F(x)))

    The set cuts the same probability off both tails and has the mass
    :math:`1 - e^{-c}`. Normaliser and divergence depend on :math:`c` and
    :math:`\kappa` alone, and a monotone map of the variable changes nothing: the
    exponential of a bounded normal is the bounded log-normal. Samples have gradients to
    all parameters. Outside the log-density is minus infinity, and a value there is no
    error.

    Args:
        base: a distribution of one number whose tails are known, see
            :func:`pyro_geo.geometry.tails.log_tails`; of event shape ().
        nats: largest tail in the set; a number or `(*batch,)`.
        mass: probability of the set under the base; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard set.
        validate_args: whether arguments are checked; None for torch's default.

    Raises:
        BallSpecError: a radius is given, which these have not. A base whose tails are
            not known is an :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> import pyro.distributions as dist
        >>> short = BoundedUnivariate(dist.Exponential(1.0), mass=0.9)
        >>> short.support.lower_bound, short.support.upper_bound
        (tensor(0.0513), tensor(2.9957))
        >>> short.kl_to_base()  # minus the log-mass
        tensor(0.1054)
    """

    def __init__(
        self,
        base: Any,
        *,
        radius: float | Tensor | None = None,
        nats: float | Tensor | None = None,
        mass: float | Tensor | None = None,
        kappa: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        expected = "nats or mass: lengths mean nothing where a base has no scale"
        check(radius is None, "radius", radius, expected, error=BallSpecError)
        check_shape("base", base.event_shape, ())
        check_quantiles(base)
        size = [x for x in (nats, mass) if isinstance(x, Tensor)]
        batch = torch.broadcast_shapes(base.batch_shape, *(x.shape for x in size))
        self.base = unvalidated(base.expand(batch))
        kind = some_tensor(base)
        zeros = torch.zeros(batch, dtype=kind.dtype, device=kind.device)
        # the signed tail is a Laplace variable, whatever the base is
        self._law = BoundedLaplace(
            zeros,
            torch.ones_like(zeros),
            nats=nats,
            mass=mass,
            kappa=kappa,
            validate_args=validate_args,
        )
        super().__init__(batch, torch.Size(), validate_args=validate_args)

    @property
    def nats(self) -> Tensor:
        """Largest tail in the set, `batch_shape`."""
        return self._law.radius

    @property
    def kappa(self) -> float:
        """Power of the field."""
        return self._law.kappa

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower end, median of the base and upper end, differentiable.

        Returns:
            Three points, `batch_shape`.
        """
        nats = self.nats
        low, middle, high = place(
            self.base, torch.stack((-nats, torch.zeros_like(nats), nats))
        )
        return low, middle, high

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Give the distribution a batch shape.

        Args:
            batch_shape: to which its own broadcasts.

        Returns:
            The distribution with expanded parameters.
        """
        batch_shape = torch.Size(batch_shape)
        new = type(self).__new__(type(self))
        new.base = self.base.expand(batch_shape)
        new._law = self._law.expand(batch_shape)
        TorchDistribution.__init__(
            new, batch_shape, torch.Size(), validate_args=validates(self)
        )
        return new

    # -- density --------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density; minus infinity outside the set.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The log-density, same shape.
        """
        inside, x, z = self._located(value)
        log_prob = self.base.log_prob(x) - self._law.log_normalizer
        if self.kappa:
            log_prob = log_prob + log_field(z.abs() / self.nats, self.kappa)
        return torch.where(inside, log_prob, -torch.inf)

    def _located(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether values are inside, a value that is, and its signed tail.

        The ends of the set would have to be searched for; the tails of a value say
        the same.

        Returns:
            Booleans, values and signed nats.
        """
        possible = self.base.support.check(value)
        somewhere: Any = biject_to(self.base.support)(torch.zeros_like(self.nats))
        x = torch.where(possible, value, somewhere.detach())
        # without a field the tails only tell whether a value is inside
        with torch.set_grad_enabled(bool(self.kappa) and torch.is_grad_enabled()):
            z = signed_tail(self.base, x if self.kappa else x.detach())
        # the ends of the support themselves are inside, however they were rounded
        slack = 64 * torch.finfo(z.dtype).eps * (1 + self.nats.detach())
        inside = possible & (z.detach().abs() <= self.nats.detach() + slack)
        x = torch.where(inside, value, somewhere.detach())
        return inside, x, torch.where(inside, z, 0.0)

    @property
    def log_mass(self) -> Tensor:
        """Logarithm of the probability of the set under the base, `batch_shape`."""
        return self._law.log_mass

    @property
    def log_normalizer(self) -> Tensor:
        """Logarithm of the mean of the field under the base, `batch_shape`."""
        return self._law.log_normalizer

    def kl_to_base(self) -> Tensor:
        """Divergence from the base in nats, the same for every base.

        Returns:
            The divergence, `batch_shape`.
        """
        return self._law.kl_to_base()

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of lying below.

        Args:
            value: numbers, `(*sample, *batch)`.

        Returns:
            The probability, same shape.
        """
        low, _, high = self.ends()
        x = torch.minimum(torch.maximum(value, low), high)
        share = self._law.cdf(signed_tail(self.base, x))
        share = torch.where(value <= low, 0.0, share)
        return torch.where(value >= high, 1.0, share)

    def icdf(self, value: Tensor) -> Tensor:
        """Number below which a probability lies, differentiable.

        Args:
            value: probabilities, `(*sample, *batch)`.

        Returns:
            The numbers, same shape.
        """
        return place(self.base, self._law.icdf(value))

    # -- draws ------------------------------------------------------------

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw numbers; gradients flow to every parameter.

        Args:
            sample_shape: how many.

        Returns:
            Numbers, `(*sample_shape, *batch)`.
        """
        return place(self.base, self._law.rsample(torch.Size(sample_shape)))

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
        return value + log_field(
            signed_tail(self.base, x).abs() / self.nats, self.kappa
        )


class BoundedGamma(BoundedUnivariate):
    r"""A gamma distribution on its central set.

    .. math:: p(x) = \frac{1}{Z} \, \mathrm{Gamma}(x; \alpha, \beta) \,
        \left(1 - \frac{I(x)}{c}\right)_+^\kappa

    A prior for a rate or a scale that can neither vanish nor run away. See
    :class:`BoundedUnivariate` for the set and the field.

    Args:
        concentration: shape, above 0; a number or `(*batch,)`.
        rate: above 0; a number or `(*batch,)`.
        nats: largest tail in the set; a number or `(*batch,)`.
        mass: probability of the set under the base; a number or `(*batch,)`.
        kappa: power of the field, a number of at least 0; 0 is the hard set.
        validate_args: whether arguments are checked; None for torch's default.

    References:
        Rodriguez (2026), arXiv:2603.13613, for context; the formulas are derived.

    Example:
        >>> rate = BoundedGamma(2.0, 1.0, mass=0.99)
        >>> rate.log_prob(torch.tensor([0.01, 1.0, 30.0]))
        tensor([   -inf, -0.9899,    -inf])
    """

    def __init__(
        self,
        concentration: float | Tensor,
        rate: float | Tensor,
        *,
        radius: float | Tensor | None = None,
        nats: float | Tensor | None = None,
        mass: float | Tensor | None = None,
        kappa: float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        for name, value in (("concentration", concentration), ("rate", rate)):
            if not isinstance(value, Tensor):
                check_number(name, value, strict=True)
        super().__init__(
            Gamma(concentration, rate, validate_args=validate_args),
            radius=radius,
            nats=nats,
            mass=mass,
            kappa=kappa,
            validate_args=validate_args,
        )

    @property
    def concentration(self) -> Tensor:
        """Shape of the base, `batch_shape`."""
        return self.base.concentration

    @property
    def rate(self) -> Tensor:
        """Rate of the base, `batch_shape`."""
        return self.base.rate
