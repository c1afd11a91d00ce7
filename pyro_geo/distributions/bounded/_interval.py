"""Bounded distributions of one number on an interval with a point inside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from pyro_geo.density.sites import unvalidated
from pyro_geo.distributions.bounded._mean import interval_mean

__all__ = ["BoundedInterval"]


class BoundedInterval(TorchDistribution):
    """A base cut off at an interval, with its moments by quadrature."""

    # torch declares a property that its own distributions override in this way
    arg_constraints: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        "nats": constraints.positive,
    }
    has_rsample = True
    base: Any

    def __repr__(self) -> str:
        """Show the base and the size of the interval."""
        nats = self.nats
        one = nats.numel() == 1
        shown = f"{float(nats):.4g}" if one else f"tensor of {tuple(nats.shape)}"
        return f"{type(self).__name__}({self.base!r}, nats: {shown})"

    @property
    @abstractmethod
    def nats(self) -> Tensor:
        """Largest separation in the interval, `batch_shape`."""

    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower end, a point where the density may have a kink, and upper end."""

    @abstractmethod
    def log_weight(self, x: Tensor) -> Tensor:
        """Unnormalised log-density inside the interval."""

    @abstractmethod
    def kl_to_base(self) -> Tensor:
        """Divergence from the base in nats, `batch_shape`."""

    @property
    def support(self) -> constraints.Constraint:
        """The interval."""
        low, _, high = self.ends()
        return constraints.interval(low, high)

    @property
    def mean(self) -> Tensor:
        """Mean, by quadrature."""
        return self.mean_of(lambda x: x).to(self.nats.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance, by quadrature."""
        mean = self.mean_of(lambda x: x)
        # from the mean: a difference of moments would cancel
        variance = self.mean_of(lambda x: (x - mean).square())
        return variance.to(self.nats.dtype)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, by quadrature.

        Returns:
            The entropy, `batch_shape`.
        """
        mean = self.mean_of(self.base.log_prob)
        return (-self.kl_to_base().double() - mean).to(self.nats.dtype)

    def mean_of(self, values: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean of a function of the variable, by quadrature in double precision.

        Args:
            values: of numbers `(nodes, *batch)`, smooth; `(..., nodes, *batch)`.

        Returns:
            The mean, `(..., *batch)`, in double precision.
        """
        ends = [x.double() for x in self.ends()]
        return interval_mean(self.log_weight, ends, values)


@register_kl(BoundedInterval, Distribution)
def _kl_interval(p: BoundedInterval, q: Any) -> Tensor:
    other = unvalidated(q)
    gap = p.mean_of(lambda x: p.base.log_prob(x) - other.log_prob(x))
    return p.kl_to_base() + gap.to(p.nats.dtype)
