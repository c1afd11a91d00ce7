"""People who filter what they see and choose by it, as one distribution."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo._compat.torch import check_sample, validates
from pyro_geo.filtering.hgf.checks import Numbers
from pyro_geo.filtering.hgf.choices import UnitSquare
from pyro_geo.filtering.hgf.responses import Responses
from pyro_geo.filtering.hgf.run import prepare, run_total, run_trajectory
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["BinaryAgent"]


class BinaryAgent(UnitSquare):
    r"""Choices of 0 or 1 after binary inputs, filter and response in one.

    .. math::
        P(y_t = 1) = \mathrm{sigmoid}(\zeta \, \hat\mu_{1t})

    The same as :class:`UnitSquare` on the predictions of
    :func:`~pyro_geo.filtering.hgf_filter`. The log-density and its gradient come from
    one compiled pass over the trials, which never writes the beliefs down: prefer it
    for fits, of cohorts above all.

    Args:
        u: inputs, 0 or 1, `(*batch, T)`.
        zeta: inverse decision noise, above 0, `(*batch,)`.
        omega: tonic log-volatility of each level, `(*batch, L)`.
        kappa: volatility coupling to the level above, `(*batch, L - 1)`.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before the first input, `(*batch, L)`.
        answered: which choices there are, bool `(*batch, T)`; default all.
        nan_policy: `"missing"` to take NaN as no choice.
        validate_args: whether values are checked; Pyro's setting if None.
        **options: of :func:`~pyro_geo.filtering.hgf_filter`; `on_invalid` is `"-inf"`
            here, so that a sampler rejects what the filter cannot run on.

    References:
        Mathys et al. (2014), Uncertainty in perception and the Hierarchical Gaussian
        Filter, equation 18.

    Example:
        >>> u = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        >>> levels = torch.tensor([[-3.0, -6.0], [-4.0, -6.0]], dtype=torch.float64)
        >>> start = [1.0], [0.0, 0.0], [1.0, 1.0]
        >>> agents = BinaryAgent(u, torch.tensor([1.0, 2.0]), levels, *start)
        >>> agents.log_prob(u).shape, agents.log_prob_steps(u).shape
        (torch.Size([2]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        u: Numbers,
        zeta: float | Tensor,
        omega: Numbers,
        kappa: Numbers | None = None,
        mu0: Numbers | None = None,
        pi0: Numbers | None = None,
        *,
        answered: Tensor | None = None,
        nan_policy: str = "raise",
        validate_args: bool | None = None,
        **options: Any,
    ) -> None:
        checked = validates(self) if validate_args is None else validate_args
        options = {"on_invalid": "-inf", "validate": checked} | options
        call = prepare(u, omega, kappa, mu0, pi0, None, kind="binary", **options)
        rest = {"nan_policy": nan_policy, "validate_args": validate_args}
        self._call, self._pending = call, call.fused and call.on_invalid != "raise"
        self._zeta = torch.as_tensor(zeta).to(call.parameters.omega)
        if not self._pending:
            super().__init__(run_trajectory(call), zeta, observed=answered, **rest)
            return
        # beliefs cost more than the log-density, which has no need of them
        *levels, noise = call.parameters
        shapes = [x.shape[:-1] for x in (*levels, *call.inputs)]
        batch = torch.broadcast_shapes(*shapes, noise.shape, self._zeta.shape)
        shape = *batch, call.inputs.u.shape[-1]
        # stands for the choices: it has their type and shape
        alike = dist.Bernoulli(logits=noise.new_zeros(()).expand(shape))
        Responses.__init__(self, alike, observed=answered, **rest)

    @property
    def base(self) -> Any:
        """Distribution of single choices, found when it is asked for."""
        self._find_beliefs()
        return self._base

    @property
    def beliefs(self) -> HGFTrajectory | None:
        """Beliefs that the choices follow from, found when they are asked for."""
        self._find_beliefs()
        return self._beliefs

    def _find_beliefs(self) -> None:
        if self._pending:
            found = UnitSquare(run_trajectory(self._call), self._zeta)
            self._base = found.base.expand(self._base.batch_shape)
            self._beliefs, self._pending = found.beliefs, False

    def expand(self, batch_shape: Any, _instance: Any = None) -> BinaryAgent:
        """Return the same distribution with a larger batch.

        Args:
            batch_shape: the new one.

        Returns:
            The distribution.
        """
        new = copy.copy(self)
        new._zeta = self._zeta.expand(batch_shape)
        Responses.__init__(
            new,
            self._base.expand(torch.Size(batch_shape) + self._base.batch_shape[-1:]),
            observed=self.observed,
            nan_policy=self.nan_policy,
            trajectory=self._beliefs,
            validate_args=validates(self),
        )
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the choices of all trials.

        Args:
            value: choices, `(*batch, T)`.

        Returns:
            `(*batch,)`.
        """
        if not self._call.fused:
            return super().log_prob(value)
        filled, seen = self._filled(torch.as_tensor(value))
        check_sample(self, filled)
        signs = 2 * filled - 1
        signs = signs if seen is None else torch.where(seen, signs, 0.0)
        parameters = self._call.parameters._replace(input_precision=self._zeta)
        return -run_total(self._call._replace(parameters=parameters), signs)
