r"""What is known of the dynamics: draws of the posterior with weights, and the state.

A posterior observes one step after another and gives :class:`Knowledge`. One may be
written by the user: any subclass of :class:`ParameterPosterior` is accepted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check_count, check_shape
from pyro_geo.errors import NonFiniteDataError, PriorSupportError
from pyro_geo.ops.weights import ess, smooth
from pyro_geo.planning.priors import Prior

if TYPE_CHECKING:
    from pyro_geo.planning.hmc_posterior import MCMCPosterior

__all__ = [
    "EnumeratedPosterior",
    "Experience",
    "Knowledge",
    "LogLikelihood",
    "PSISPosterior",
    "ParameterPosterior",
]

LogLikelihood = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`log_likelihood(theta, s, a, s_next)`, the log-density of steps, broadcasting."""


class Experience(NamedTuple):
    """Steps that were made.

    Attributes:
        s: states, `(T, ...)`.
        a: actions, `(T, ...)`.
        reward: rewards, `(T,)`.
        s_next: the states that followed, `(T, ...)`.
    """

    s: Tensor
    a: Tensor
    reward: Tensor
    s_next: Tensor

    @classmethod
    def of_step(
        cls, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> Self:
        """Make an experience of one step, and refuse numbers that are not finite.

        Args:
            s: the state.
            a: the action.
            reward: the reward.
            s_next: the state that followed.

        Returns:
            The step, with an axis of time of length one.

        Raises:
            NonFiniteDataError: state, action or reward is not finite.
        """
        parts = [torch.as_tensor(x)[None] for x in (s, a, reward, s_next)]
        for name, part in zip(cls._fields, parts, strict=True):
            if not bool(part.isfinite().all()):
                raise NonFiniteDataError(
                    "a step is not finite",
                    where=f"argument {name}",
                    found=part[0].tolist(),
                    expected="finite numbers",
                    todo="Leave the step out, or use a posterior of hidden states.",
                )
        return cls(*parts)

    def joined(self, other: Experience) -> Experience:
        """Put further steps behind these.

        Args:
            other: further steps.

        Returns:
            All of them.
        """
        return Experience(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def padded(self, capacity: int) -> tuple[Experience, Tensor]:
        """Repeat the last step until there are so many.

        What was traced for one number of steps then serves other numbers. The copies
        are steps like the others, so that no function of them is less finite.

        Args:
            capacity: steps afterwards, at least those that there are.

        Returns:
            The steps, and which of them were made, `(capacity,)`.

        Example:
            >>> one = torch.ones(1)
            >>> steps, made = Experience(one, one, one, one).padded(3)
            >>> steps.s.shape, made.tolist()
            (torch.Size([3]), [True, False, False])
        """
        count = len(self.reward)
        check_count("capacity", capacity, count)
        rows = torch.arange(capacity).clamp(max=count - 1)
        return Experience(*(x[rows] for x in self)), torch.arange(capacity) < count


class Knowledge(NamedTuple):
    """Draws of a posterior.

    Attributes:
        theta: parameters, `(M, P)`.
        log_weights: of the draws, normalised, `(M,)`.
        states: where the state is hidden, states that it may be in, `(m, ...)`;
            otherwise None.
        belief: probability of these states under each draw, `(M, m)`.
    """

    theta: Tensor
    log_weights: Tensor
    states: Tensor | None = None
    belief: Tensor | None = None


class ParameterPosterior(Made, ABC):
    """What is known of the dynamics after the steps observed so far.

    A controller that is to learn nothing (`select="prior"`) asks for
    `prior_knowledge()`, draws of the prior; a posterior of your own needs it for that
    alone.

    Attributes:
        khat: shape of the tail of importance weights; NaN where there are none.
        ess: effective number of draws.
    """

    khat: float = math.nan
    ess: float = math.nan

    def begin(self, s: Tensor) -> None:
        """Take note of the first state, or of its measurement.

        A posterior of states that are seen has no use for it.

        Args:
            s: the state.
        """
        del s

    @abstractmethod
    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Learn from one step.

        Args:
            s: the state, or its measurement.
            a: the action.
            reward: the reward.
            s_next: the state that followed, or its measurement.
        """

    @abstractmethod
    def knowledge(self) -> Knowledge:
        """Give draws of the posterior."""


class EnumeratedPosterior(ParameterPosterior):
    r"""Exact posterior of unknowns that have finitely many values.

    .. math:: w_j \propto \pi_j \prod_t p(s_{t+1} \mid s_t, a_t, \theta_j)

    Args:
        theta: all values, `(M, P)`.
        log_likelihood: `log_likelihood(theta, s, a, s_next)`, log-density of one step.
            Leading axes broadcast: of parameters `(M, P)` and one step it is `(M,)`.
        log_prior: of the values, `(M,)`; equal when left out.

    Example:
        >>> import pyro.distributions as dist
        >>> def law(theta, s, a, s_next):
        ...     return dist.Normal(theta[..., 0] * a, 1.0).log_prob(s_next)
        >>> theta = torch.tensor([[-1.0], [1.0]])
        >>> posterior = EnumeratedPosterior(theta, law)
        >>> one = torch.tensor(1.0)
        >>> posterior.observe(one, one, 0.0, one)
        >>> posterior.knowledge().log_weights.exp()
        tensor([0.1192, 0.8808])
    """

    def __init__(
        self,
        theta: Tensor,
        log_likelihood: LogLikelihood,
        log_prior: Tensor | None = None,
    ) -> None:
        check_shape("theta", theta.shape, "(M, P)", theta.dim() == 2)
        prior = torch.zeros(len(theta)) if log_prior is None else log_prior
        check_shape("log_prior", prior.shape, (len(theta),))
        self.theta, self.log_likelihood = theta, log_likelihood
        self.log_weights = self._log_prior = prior.log_softmax(-1)
        self.ess = float(ess(self.log_weights))

    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Multiply the weights by the likelihood of a step.

        Args:
            s: the state.
            a: the action.
            reward: the reward; its law is known, so it tells nothing more.
            s_next: the state that followed.
        """
        Experience.of_step(s, a, reward, s_next)
        gain = self.log_likelihood(self.theta, s, a, s_next)
        self.log_weights = _weighed(self.log_weights, gain)
        self.ess = float(ess(self.log_weights))

    def knowledge(self) -> Knowledge:
        """Give all values with their weights."""
        return Knowledge(self.theta, self.log_weights)

    def prior_knowledge(self) -> Knowledge:
        """Give all values with their weights before anything was observed."""
        return Knowledge(self.theta, self._log_prior)


class PSISPosterior(ParameterPosterior):
    r"""Draws of the prior, weighted by the likelihood of what was observed.

    The largest weights are replaced by quantiles of a fitted Pareto distribution. Where
    the shape of that tail, :math:`\hat k`, is below .7 and the effective number of
    draws above 100 the weighted draws stand for the posterior. Otherwise `fallback`
    samples it, if there is one.

    Args:
        prior: of the parameters.
        log_likelihood: `log_likelihood(theta, s, a, s_next)`, log-density of one step.
            Leading axes broadcast: of parameters `(M, P)` and one step it is `(M,)`.
        num_draws: draws of the prior.
        seed: of these draws.
        fallback: samples the posterior where weights do not do.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance
        sampling, JMLR.

    Example:
        >>> import pyro.distributions as dist
        >>> def law(theta, s, a, s_next):
        ...     return dist.Normal(theta[..., 0] * a, 1.0).log_prob(s_next)
        >>> posterior = PSISPosterior(Prior({"push": dist.Normal(0.0, 1.0)}), law)
        >>> one = torch.tensor(1.0)
        >>> posterior.observe(one, one, 0.0, one)
        >>> found = posterior.knowledge()
        >>> mean = (found.log_weights.exp() * found.theta[:, 0]).sum()
        >>> round(float(mean), 2), posterior.reliable
        (0.5, True)
    """

    def __init__(
        self,
        prior: Prior,
        log_likelihood: LogLikelihood,
        *,
        num_draws: int = 4000,
        seed: int = 0,
        fallback: MCMCPosterior | None = None,
    ) -> None:
        check_count("num_draws", num_draws, 100)
        self.prior, self.log_likelihood, self.fallback = prior, log_likelihood, fallback
        self.theta = prior.sample(num_draws, seed)
        self._raw = torch.full((num_draws,), -math.log(num_draws), dtype=torch.float64)
        self.log_weights = self._raw
        self.ess, self.khat = float(num_draws), math.nan

    @property
    def reliable(self) -> bool:
        """Whether the weighted draws stand for the posterior."""
        no_tail = math.isnan(self.khat)  # equal weights, before anything is observed
        return (no_tail or self.khat < 0.7) and self.ess > 100

    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Multiply the weights by the likelihood of a step.

        Args:
            s: the state.
            a: the action.
            reward: the reward; its law is known, so it tells nothing more.
            s_next: the state that followed.
        """
        Experience.of_step(s, a, reward, s_next)
        gain = self.log_likelihood(self.theta, s, a, s_next)
        self._raw = _weighed(self._raw, gain.double())
        self.log_weights, self.khat = smooth(self._raw)
        self.ess = float(ess(self.log_weights))
        if self.fallback is not None:
            self.fallback.observe(s, a, reward, s_next)

    def knowledge(self) -> Knowledge:
        """Give draws: weighted ones of the prior, or those of the fallback."""
        if self.fallback is not None and not self.reliable:
            return self.fallback.knowledge()
        return Knowledge(self.theta, self.log_weights)

    def prior_knowledge(self) -> Knowledge:
        """Give the draws of the prior with equal weights."""
        return Knowledge(self.theta, torch.zeros_like(self._raw).log_softmax(-1))


def _weighed(log_weights: Tensor, gain: Tensor) -> Tensor:
    """Multiply weights by likelihoods, and normalise.

    Returns:
        Normalised weights, `(M,)`.

    Raises:
        PriorSupportError: no draw can have caused the step.
    """
    weights = log_weights + torch.where(gain.isnan(), -math.inf, gain)
    if not bool(weights.isfinite().any()):
        raise PriorSupportError(
            "no draw of the prior can have caused this step",
            where="observe, arguments s, a and s_next",
            found=f"a likelihood of zero under all {len(weights)} draws",
            expected="a draw of positive likelihood",
            todo="Widen the prior, or give the dynamics noise.",
        )
    return weights.log_softmax(-1)
