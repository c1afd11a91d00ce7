r"""Likelihoods of which one observation carries a bounded number of nats.

For every prior of mean :math:`m` and covariance :math:`P`, and every likelihood whose
values lie in :math:`[e^{-c}, 1]` up to a constant factor, whatever the observation is:

.. math::
    e^{-c} \le \frac{d\,\mathrm{posterior}}{d\,\mathrm{prior}} \le e^c, \quad
    \mathrm{TV} \le \tanh\tfrac{c}{4}, \quad
    |m' - m|_{P^{-1}} \le \sinh\tfrac{c}{2}, \quad P' \le e^c P

:class:`BoundedLikelihood` is a density of the data with this property, so that scales
and rates can be learned with it. The factors are not densities of the data.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MultivariateStudentT, TorchDistribution
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.density.sites import unvalidated
from pyro_geo.distributions.bounded._power import log_power_integral
from pyro_geo.distributions.bounded._tensors import some_tensor
from pyro_geo.errors import ShapeError, UnsupportedError

__all__ = ["BoundedLikelihood", "capped_factor", "density_power_factor", "tempered"]


class _Either(constraints.Constraint):
    """Values that one of two distributions can take."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        """Whether both are."""
        return self.first.is_discrete and self.second.is_discrete

    @property
    def event_dim(self) -> int:
        """Axes of one event, the same for both."""
        return self.first.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is possible."""
        return self.first.check(value) | self.second.check(value)


class BoundedLikelihood(TorchDistribution):
    r"""A density of data that may be outliers, with bounded information.

    .. math:: p(y) = (1 - \epsilon)\, p_{\text{base}}(y) + \epsilon\,
        p_{\text{clutter}}(y)

    Against the clutter, an observation carries at most

    .. math:: \log(1 + e^c), \qquad c = \log \frac{1 - \epsilon}{\epsilon}
        + \log \frac{p_{\text{base}}(\hat y)}{p_{\text{clutter}}(\hat y)}

    nats, where :math:`\hat y` is the mode of the base. Being a proper density it
    samples, predicts, and learns scales and rates; a capped factor does not. Prefer it
    to a Student-t where outliers are grouped: a t lets go slowly, this one at a
    distance that `cap` sets. The posterior can have several modes: see
    :func:`pyro_geo.infer.robust_init`.

    Args:
        base: distribution of good observations.
        clutter: distribution of bad ones, wide, with the same event shape; a
            `Uniform` over the range of the data gives a constant floor.
        outlier_prob: chance of a bad one, in (0, 1); broadcasts with both batches.
        validate_args: as in torch.

    Raises:
        ShapeError: the events of base and clutter differ. A chance out of range is a
            :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Derived; context in Rodriguez (2026), arXiv 2603.13613.

    Example:
        >>> import pyro.distributions as dist
        >>> good, bad = dist.Normal(0.0, 0.5), dist.Uniform(-50.0, 50.0)
        >>> fn = BoundedLikelihood(good, bad, 0.05)
        >>> round(float(fn.cap), 3)
        7.324
        >>> [round(float(p), 3) for p in fn.outlier_probs(torch.tensor([0.0, 9.0]))]
        [0.001, 1.0]
    """

    arg_constraints: Any = {"outlier_prob": constraints.unit_interval}

    def __init__(
        self,
        base: Any,
        clutter: Any,
        outlier_prob: float | Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_shape("clutter", clutter.event_shape, base.event_shape)
        if not isinstance(outlier_prob, Tensor):
            check_number("outlier_prob", outlier_prob, 0.0, 1.0, strict=True)
        kind = some_tensor(base)
        chance = torch.as_tensor(outlier_prob, dtype=kind.dtype, device=kind.device)
        shapes = base.batch_shape, clutter.batch_shape, chance.shape
        try:
            shape = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            raise ShapeError(
                "batches do not broadcast",
                where="arguments base, clutter, outlier_prob",
                found=", ".join(str(tuple(one)) for one in shapes),
                expected="shapes that broadcast",
                todo="Give each of them one entry for each datum, or one for all.",
            ) from None
        self.base = unvalidated(base.expand(shape))
        self.clutter = unvalidated(clutter.expand(shape))
        self.outlier_prob = chance.expand(shape)
        super().__init__(shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BoundedLikelihood:
        """Broadcast the batch to a larger shape."""
        shape = torch.Size(batch_shape)
        return type(self)(
            self.base.expand(shape),
            self.clutter.expand(shape),
            self.outlier_prob.expand(shape),
            validate_args=False,
        )

    @constraints.dependent_property
    def support(self) -> Any:
        """Values that the base or the clutter can take."""
        first, second = self.base.support, self.clutter.support
        if _is_everything(second) or first is second:
            return second
        return first if _is_everything(first) else _Either(first, second)

    # -- density --------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of values, `(..., *batch)`."""
        return torch.logaddexp(*self._terms(value))

    def outlier_probs(self, value: Tensor) -> Tensor:
        """Probability that each value is an outlier, given the value, `(..., *batch)`.

        Args:
            value: observations.

        Returns:
            Probabilities.
        """
        good, bad = self._terms(value)
        return torch.sigmoid(bad - good)

    def _terms(self, value: Tensor) -> tuple[Tensor, Tensor]:
        good = torch.log1p(-self.outlier_prob) + _log_prob_anywhere(self.base, value)
        bad = self.outlier_prob.log() + _log_prob_anywhere(self.clutter, value)
        return good, bad

    @property
    def cap(self) -> Tensor:
        """Nats between the base at its mode and the clutter there, of the batch.

        Returns:
            The cap :math:`c`.

        Raises:
            UnsupportedError: the base does not know its mode.
        """
        try:
            mode = _mode_of(self.base)
        except NotImplementedError as reason:
            raise UnsupportedError(
                "the base has no known mode",
                where="argument base",
                found=type(self.base).__name__,
                expected="a distribution with a mode",
                todo="Evaluate the log-odds of the two at the mode yourself.",
            ) from reason
        good, bad = self._terms(mode)
        return good - bad

    # -- draws and moments ------------------------------------------------------------

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw values, and outliers among them."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            chance = self.outlier_prob.expand(shape + self.batch_shape)
            bad = torch.rand_like(chance) < chance
            bad = bad.reshape(bad.shape + (1,) * len(self.event_shape))
            clutter, base = self.clutter.sample(shape), self.base.sample(shape)
            return torch.where(bad, clutter, base)

    @property
    def mean(self) -> Tensor:
        """Mean of both together."""
        return self._mixed(self.base.mean, self.clutter.mean)

    @property
    def variance(self) -> Tensor:
        """Variance of both together."""
        within = self._mixed(self.base.variance, self.clutter.variance)
        gap = self.base.mean - self.clutter.mean
        chance = self._chance
        return within + chance * (1 - chance) * gap**2

    @property
    def _chance(self) -> Tensor:
        return self.outlier_prob.reshape(
            self.batch_shape + (1,) * len(self.event_shape)
        )

    def _mixed(self, good: Tensor, bad: Tensor) -> Tensor:
        return (1 - self._chance) * good + self._chance * bad


def _mode_of(fn: Any) -> Tensor:
    return fn.loc if isinstance(fn, MultivariateStudentT) else fn.mode


def _is_everything(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


def _log_prob_anywhere(fn: Any, value: Tensor) -> Tensor:
    """Log-density, minus infinity outside the support and no NaN in its gradient."""
    support = fn.support
    if _is_everything(support):
        return fn.log_prob(value)
    inside = support.check(value)
    shape = fn.batch_shape + fn.event_shape
    filler = value.new_zeros(shape)
    if not support.is_discrete:
        transform: Any = biject_to(support)
        filler = transform(filler.new_zeros(transform.inverse_shape(shape)))
    event = inside.reshape(inside.shape + (1,) * support.event_dim)
    log_prob = fn.log_prob(torch.where(event, value, filler))
    return torch.where(inside, log_prob, -torch.inf)


# -- factors ---------------------------------------------------------------------------


def capped_factor(info: Tensor, cap: float | Tensor) -> Tensor:
    r"""Log-factor of an observation that may count at most `cap` nats.

    .. math:: -\min(I, c)

    Use it with `pyro.factor` inside the plate of the data, with
    :math:`I = (y - f)^2 / 2 s^2` for a **fixed** scale :math:`s`. It is a generalised
    Bayes factor and no density of the data. **Never cap the information alone where a
    scale is learned**: with :math:`-n \log s - \sum \min(I, c)` the posterior runs to
    :math:`s \to 0`, where all observations but a few are outliers. Use
    :class:`BoundedLikelihood` or :func:`density_power_factor` there.

    Args:
        info: information of each observation, at least 0.
        cap: largest that counts, above 0; broadcasts.

    Returns:
        Log-factors, of the shape of `info`.

    Example:
        >>> capped_factor(torch.tensor([0.5, 800.0]), 4.0)
        tensor([-0.5000, -4.0000])
    """
    if not isinstance(cap, Tensor):
        check(cap > 0, "cap", cap, "above 0; infinite for no cap")
    return -torch.minimum(info, torch.as_tensor(cap, dtype=info.dtype))


def density_power_factor(base: Any, value: Tensor, power: float | Tensor) -> Tensor:
    r"""Log-factor of an observation by the density power divergence.

    .. math:: \frac{p(y)^b - 1}{b} + 1 - \frac{1}{1 + b} \int p(x)^{1 + b} \, dx

    It tends to :math:`\log p(y)` as :math:`b \to 0`. An observation can lower it by no
    more than :math:`p(\hat y)^b / b`. The integral makes it fit for learned scales,
    though it is no density of the data: samples and predictive checks need a model of
    the outliers.

    Args:
        base: distribution of good observations: Normal, MultivariateNormal, Laplace,
            StudentT, Exponential, Gamma, Beta, Bernoulli, Categorical or
            OneHotCategorical, also `Independent`.
        value: observations, `(..., *batch, *event)`.
        power: the exponent :math:`b`, above 0; .2 to .5 are usual.

    Returns:
        Log-factors, `(..., *batch)`. Another base is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Ghosh & Basu (2016), Robust Bayes estimation using the density power
        divergence, Annals of the Institute of Statistical Mathematics 68.

    Example:
        >>> import pyro.distributions as dist
        >>> y = torch.tensor([0.0, 800.0])
        >>> density_power_factor(dist.Normal(0.0, 1.0), y, 0.5)
        tensor([-0.0806, -1.3438])
    """
    if not isinstance(power, Tensor):
        check_number("power", power, strict=True)
    log_prob = base.log_prob(value)
    exponent = torch.as_tensor(power, dtype=log_prob.dtype)
    integral = log_power_integral(base, exponent).exp()
    return torch.expm1(exponent * log_prob) / exponent + 1 - integral / (1 + exponent)


def tempered(base: Any, value: Tensor, beta: float | Tensor) -> Tensor:
    r"""Log-factor of an observation whose likelihood is taken to a power.

    .. math:: \beta \log p(y)

    It widens a posterior whose observations are not independent. It does not help
    against outliers: their information is still unbounded. For a whole model use
    :meth:`pyro_geo.Target.tempered`.

    Args:
        base: distribution of the observations.
        value: observations.
        beta: the power, at least 0.

    Returns:
        Log-factors, `(..., *batch)`.

    Example:
        >>> import pyro.distributions as dist
        >>> tempered(dist.Laplace(0.0, 0.5), torch.tensor(3.0), 0.5)
        tensor(-3.)
    """
    if not isinstance(beta, Tensor):
        check_number("beta", beta)
    return beta * base.log_prob(value)
