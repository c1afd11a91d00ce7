"""The hierarchical Gaussian filter as a distribution of a series."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.torch import validates
from pyro_geo.checks import check, check_choice, check_count, check_shape
from pyro_geo.errors import HGFShapeError
from pyro_geo.filtering.hgf.checks import KINDS, Numbers, hgf_parameters
from pyro_geo.filtering.hgf.parameters import HGFParameters, Kind, Predictive, Update
from pyro_geo.filtering.hgf.run import (
    Backend,
    Call,
    OnInvalid,
    prepare,
    run_surprise,
    run_total,
    run_trajectory,
)
from pyro_geo.filtering.hgf.simulate import simulate
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["HGF"]

_BETWEEN = ("kappa", "value_coupling")


class HGF(TorchDistribution):
    r"""Series whose hidden state has a hidden rate of change.

    .. math::
        \log p(u_{1:T}) = \sum_t \log p(u_t \mid u_{1:t-1})

    Each term is the density that the filter predicts for the next input, minus its
    surprise. It is a proper density of the series. Use it as any distribution: the
    parameters get priors, subjects are a plate, chains are further axes on the left.
    :func:`~pyro_geo.filtering.hgf_filter` is the same without a distribution.

    Args:
        omega: tonic log-volatility of each level, `(*batch, L)`, level 1 first.
        kappa: volatility coupling to the level above, `(*batch, L - 1)`.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before the first input, `(*batch, L)`.
        input_precision: of continuous input, `(*batch,)`.
        num_steps: T; left out where `time_step` or `observed` tells.
        time_step: time since the step before, `(*batch, T)`; default 1.
        kind: of input, `"continuous"`, `"binary"` (0 or 1) or `"categorical"` (class
            numbers; the axis of parameters before the levels is that of the classes).
        update: of the levels above the first; `"unbounded"` never fails.
        drift: change of a level per time, `(*batch, L)`; default 0.
        autoconnection: share of a level that stays, `(*batch, L)`; default 1.
        value_coupling: of a level's drift to the level above, `(*batch, L - 1)`.
        num_classes: number of classes, if the parameters do not tell.
        observed: which inputs there are, bool `(*batch, T)`; default all.
        nan_policy: `"raise"`, or `"missing"` to take NaN as not observed.
        predictive: `"input"` for the density of the input, `"state"` for what other
            toolboxes maximise.
        normalise: whether predicted probabilities of classes add up to 1.
        backend: `"auto"`, `"torch"` or `"numba"`.
        on_invalid: what the density is where the filter fails: `"-inf"` with a
            gradient of zero, which a sampler takes for a divergence, `"nan"`, or
            `"raise"`.
        validate_args: whether values are checked; Pyro's setting if None.

    Attributes:
        parameters: all of the above that describe the levels, with one batch shape.

    Raises:
        HGFShapeError: the shapes of the arguments do not go together.

    References:
        Robust volatility updates for Hierarchical Gaussian Filtering, arXiv
        2605.00966; The generalized Hierarchical Gaussian Filter, arXiv 2305.10937. The
        density of the input, in place of that of the state, is derived.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo import Target
        >>> def model(u):
        ...     omega = pyro.sample("omega", dist.Normal(-3.0, 2.0))
        ...     levels = torch.stack([omega, torch.tensor(-4.0)], -1)
        ...     hgf = HGF(
        ...         levels,
        ...         [1.0],
        ...         [0.0, 0.0],
        ...         [1.0, 1.0],
        ...         kind="binary",
        ...         num_steps=u.shape[-1],
        ...     )
        ...     with pyro.plate("subject", len(u)):
        ...         pyro.sample("u", hgf, obs=u)
        >>> target = Target.from_model(model, torch.ones(5, 8).bernoulli(0.7))
        >>> target.stepwise_log_likelihood(torch.zeros(2, 1))["u"].shape
        torch.Size([2, 5, 8])
    """

    step_dim = "trial"
    has_enumerate_support = False

    def __init__(
        self,
        omega: Numbers,
        kappa: Numbers | None,
        mu0: Numbers,
        pi0: Numbers,
        input_precision: Numbers | None = None,
        *,
        num_steps: int | None = None,
        time_step: Numbers | None = None,
        kind: Kind = "continuous",
        update: Update = "unbounded",
        drift: Numbers | None = None,
        autoconnection: Numbers | None = None,
        value_coupling: Numbers | None = None,
        num_classes: int | None = None,
        observed: Tensor | None = None,
        nan_policy: str = "raise",
        predictive: Predictive = "input",
        normalise: bool = True,
        backend: Backend = "auto",
        on_invalid: OnInvalid = "-inf",
        validate_args: bool | None = None,
    ) -> None:
        check_choice("kind", kind, KINDS)
        check_choice("nan_policy", nan_policy, ("raise", "missing"))
        self.kind: Kind = kind
        self.parameters: HGFParameters = hgf_parameters(
            omega,
            kappa,
            mu0,
            pi0,
            input_precision,
            kind=kind,
            drift=drift,
            autoconnection=autoconnection,
            value_coupling=value_coupling,
            num_classes=num_classes,
            validate=validates(self) if validate_args is None else validate_args,
        )
        like = self.parameters.omega
        self.time_step = (
            None if time_step is None else torch.as_tensor(time_step).to(like)
        )
        self.observed = None if observed is None else torch.as_tensor(observed)
        # of value coupling the filter needs to know whether there is any
        self._coupled = value_coupling is not None
        self._options: dict[str, Any] = {
            "kind": kind,
            "update": update,
            "nan_policy": nan_policy,
            "predictive": predictive,
            "normalise": normalise,
            "backend": backend,
        }
        self.on_invalid: OnInvalid = on_invalid
        batch, steps = self._shapes(num_steps)
        super().__init__(batch, torch.Size([steps]), validate_args=validate_args)

    def _shapes(self, num_steps: int | None) -> tuple[torch.Size, int]:
        """Find the shape of the batch and the number of steps."""
        check_count("num_steps", 1 if num_steps is None else num_steps)
        rows = [x for x in (self.time_step, self.observed) if x is not None and x.dim()]
        lengths = {x.shape[-1] for x in rows}
        lengths |= set() if num_steps is None else {num_steps}
        check(bool(lengths), "num_steps", None, "a number, or time_step")
        if len(lengths) > 1:
            lengths.discard(1)
        shapes = [x.shape[:-1] for x in rows]
        if len(lengths) > 1:
            raise HGFShapeError(
                "numbers of steps differ",
                where="arguments num_steps, time_step, observed",
                found=sorted(lengths),
                expected="one number",
                todo="Give each step its own time, and say of each if it is observed.",
            )
        return torch.broadcast_shapes(self._batch_of_levels, *shapes), lengths.pop()

    @property
    def _batch_of_levels(self) -> torch.Size:
        """Batch shape of the parameters, without the axis of classes."""
        batch = self.parameters.omega.shape[:-1]
        return batch[:-1] if self.kind == "categorical" else batch

    # -- what Pyro asks ---------------------------------------------------------------

    @property
    def omega(self) -> Tensor:
        """Tonic log-volatility, `(*batch, L)`."""
        return self.parameters.omega

    @property
    def kappa(self) -> Tensor:
        """Volatility coupling, `(*batch, L - 1)`."""
        return self.parameters.kappa

    @property
    def mu0(self) -> Tensor:
        """Mean before the first input, `(*batch, L)`."""
        return self.parameters.mu0

    @property
    def pi0(self) -> Tensor:
        """Precision before the first input, `(*batch, L)`."""
        return self.parameters.pi0

    @property
    def input_precision(self) -> Tensor:
        """Precision of a continuous input, `(*batch,)`."""
        return self.parameters.input_precision

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """Ranges of the parameters."""
        return {
            "omega": constraints.real_vector,
            "kappa": constraints.real_vector,
            "mu0": constraints.real_vector,
            "pi0": constraints.independent(constraints.positive, 1),
            "input_precision": constraints.positive,
        }

    @property
    def support(self) -> Any:
        """Series of the kind of input."""
        if self.kind == "continuous":
            return constraints.real_vector
        if self.kind == "binary":
            return constraints.independent(constraints.boolean, 1)
        last = self.omega.shape[-2] - 1
        return constraints.independent(constraints.integer_interval(0, last), 1)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have derivatives, as continuous ones do."""
        return self.kind == "continuous"

    def expand(self, batch_shape: Any, _instance: Any = None) -> HGF:
        """Return the same distribution with a larger batch; nothing is copied.

        Args:
            batch_shape: the new one.

        Returns:
            The distribution.
        """
        new = copy.copy(self)
        batch = torch.Size(batch_shape)
        classes = self.omega.shape[len(self._batch_of_levels) : -1]
        lead = (*batch, *classes)
        new.parameters = HGFParameters(
            *(x.expand(*lead, x.shape[-1]) for x in self.parameters[:-1]),
            input_precision=self.parameters.input_precision.expand(lead),
        )
        TorchDistribution.__init__(
            new, batch, self.event_shape, validate_args=validates(self)
        )
        return new

    # -- densities and draws ----------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of series: minus the sum of their surprise.

        Args:
            value: series, `(*batch, T)`.

        Returns:
            `(*batch,)`.
        """
        return -run_total(self._call(value, self.on_invalid))

    def log_prob_steps(self, value: Tensor) -> Tensor:
        """Log-density of each input given those before it; 0 where it is missing.

        Args:
            value: series, `(*batch, T)`.

        Returns:
            `(*batch, T)`.
        """
        return -run_surprise(self._call(value, self.on_invalid))

    def trajectory(self, value: Tensor, on_invalid: OnInvalid = "nan") -> HGFTrajectory:
        """Beliefs at each step of series.

        Args:
            value: series, `(*batch, T)`.
            on_invalid: as of :func:`~pyro_geo.filtering.hgf_filter`.

        Returns:
            The trajectory; NaN from where a filter has failed.
        """
        return run_trajectory(self._call(value, on_invalid))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw series from the generative model, with derivatives.

        Args:
            sample_shape: of independent draws.

        Returns:
            Inputs, those that `observed` leaves out too, `(*sample_shape, *batch, T)`.

        Raises:
            NotImplementedError: the input is not continuous.
        """
        if not self.has_rsample:
            raise NotImplementedError("only continuous inputs have derivatives")
        return self._draw(sample_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw series from the generative model.

        Args:
            sample_shape: of independent draws.

        Returns:
            Inputs, those that `observed` leaves out too, `(*sample_shape, *batch, T)`.
        """
        with torch.no_grad():
            return self._draw(sample_shape)

    def _draw(self, sample_shape: Any) -> Tensor:
        parameters = self.expand(self.batch_shape).parameters
        time = (
            parameters.omega.new_ones(()) if self.time_step is None else self.time_step
        )
        time = time.expand(*time.shape[:-1], *self.event_shape)
        return simulate(parameters, time, self.kind, tuple(sample_shape)).inputs

    def _call(self, value: Tensor, on_invalid: OnInvalid) -> Call:
        """Prepare the filter of series."""
        check_shape(
            "value", value.shape, self.shape(), value.shape[-1:] == self.event_shape
        )
        own = self.parameters
        return prepare(
            value,
            own.omega,
            own.kappa,
            own.mu0,
            own.pi0,
            own.input_precision,
            time_step=self.time_step,
            observed=self.observed,
            drift=own.drift,
            autoconnection=own.autoconnection,
            value_coupling=own.value_coupling if self._coupled else None,
            on_invalid=on_invalid,
            validate=validates(self),
            **self._options,
        )
