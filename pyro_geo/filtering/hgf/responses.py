"""The distribution of responses that are independent given the beliefs."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.torch import check_sample, validates
from pyro_geo.checks import check, check_choice, check_shape
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["Responses"]


class Responses(TorchDistribution):
    r"""Responses of all trials, independent of each other given the beliefs.

    .. math:: \log p(y) = \sum_t \log p(y_t)

    Like `to_event(1)` of the distribution of single responses, with two differences:
    responses may be missing, and the log-likelihood of each trial stays known, for
    leave-one-out cross-validation.

    Args:
        base: of single responses; its batch ends with time, `(*batch, T)`.
        observed: which responses there are, bool `(*batch, T)`; default all.
        nan_policy: `"raise"`, or `"missing"` to take NaN as no response.
        trajectory: of the filter that they follow from, to be found again by
            :class:`~pyro_geo.filtering.HGFSeries`.
        validate_args: whether values are checked; Pyro's setting if None.

    Example:
        >>> import pyro.distributions as dist
        >>> y = torch.tensor([0.0, torch.nan])
        >>> one = Responses(dist.Normal(torch.zeros(2), 1.0), nan_policy="missing")
        >>> one.log_prob_steps(y).tolist()
        [-0.9189385175704956, 0.0]
    """

    step_dim = "trial"

    def __init__(
        self,
        base: Any,
        *,
        observed: Tensor | None = None,
        nan_policy: str = "raise",
        trajectory: HGFTrajectory | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_choice("nan_policy", nan_policy, ("raise", "missing"))
        shape = base.batch_shape
        check(len(shape) > 0, "base", tuple(shape), "a batch that ends with time")
        if observed is not None and observed.dim():
            rows = torch.broadcast_shapes(shape[:-1], observed.shape[:-1])
            good = observed.shape[-1] in (1, shape[-1])
            check_shape("observed", observed.shape, f"(*batch, {shape[-1]})", good)
            base = base.expand((*rows, shape[-1]))
        self._base, self.observed, self.nan_policy = base, observed, nan_policy
        self._beliefs = trajectory
        shape = base.batch_shape
        super().__init__(
            shape[:-1], shape[-1:] + base.event_shape, validate_args=validate_args
        )

    @property
    def base(self) -> Any:
        """Distribution of single responses."""
        return self._base

    @property
    def beliefs(self) -> HGFTrajectory | None:
        """The trajectory that they follow from, if there is one."""
        return self._beliefs

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """None: the distribution of single responses has its own."""
        return {}

    @property
    def support(self) -> Any:
        """That of single responses, for each trial."""
        return constraints.independent(self._base.support, 1)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have derivatives."""
        return self._base.has_rsample

    def expand(self, batch_shape: Any, _instance: Any = None) -> Responses:
        """Return the same distribution with a larger batch.

        Args:
            batch_shape: the new one.

        Returns:
            The distribution.
        """
        steps = self.base.batch_shape[-1:]
        return Responses(
            self.base.expand(torch.Size(batch_shape) + steps),
            observed=self.observed,
            nan_policy=self.nan_policy,
            trajectory=self.beliefs,
            validate_args=validates(self),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the responses of all trials.

        Args:
            value: responses, `(*batch, T)`.

        Returns:
            `(*batch,)`.
        """
        return self.log_prob_steps(value).sum(-1)

    def log_prob_steps(self, value: Tensor) -> Tensor:
        """Log-density of each response; 0 where it is missing.

        Args:
            value: responses, `(*batch, T)`.

        Returns:
            `(*batch, T)`.
        """
        filled, seen = self._filled(torch.as_tensor(value))
        check_sample(self, filled)
        steps = self.base.log_prob(filled)
        return steps if seen is None else torch.where(seen, steps, 0.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw responses with derivatives.

        Args:
            sample_shape: of independent draws.

        Returns:
            `(*sample_shape, *batch, T)`.
        """
        return self.base.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw responses.

        Args:
            sample_shape: of independent draws.

        Returns:
            `(*sample_shape, *batch, T)`, those that `observed` leaves out too.
        """
        return self.base.sample(torch.Size(sample_shape))

    def _filled(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Put a harmless value where a response is missing; say where one is not."""
        if isinstance(self._base, torch.distributions.Bernoulli):
            value = value.to(self._base.logits.dtype)  # whole numbers, truth values
        seen = self.observed
        events = len(self._base.event_shape)
        if self.nan_policy == "missing" and value.is_floating_point():
            known = ~value.isnan()
            known = known.flatten(known.dim() - events).all(-1) if events else known
            seen = known if seen is None else seen & known
        if seen is None:
            return value, None
        inside: Any = self._base.support
        low = getattr(inside, "lower_bound", None)  # a time has to be above it
        harmless = 1.0 if low is not None and not inside.is_discrete else 0.0
        mask = seen.reshape(seen.shape + (1,) * events)
        return torch.where(mask, value, torch.as_tensor(harmless).to(value)), seen
