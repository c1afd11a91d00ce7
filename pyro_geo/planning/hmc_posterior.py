"""The posterior of the dynamics by Hamiltonian Monte Carlo, and of any Pyro model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.density import Target
from pyro_geo.infer import HMC, MCMC
from pyro_geo.ops.random import substream
from pyro_geo.planning.posteriors import (
    Experience,
    Knowledge,
    LogLikelihood,
    ParameterPosterior,
)
from pyro_geo.planning.priors import Prior

__all__ = ["MCMCPosterior", "dynamics_model"]

_LEAST_CAPACITY = 8  # steps; fewer are padded to so many


def dynamics_model(prior: Prior, log_likelihood: LogLikelihood) -> Callable[..., None]:
    """Make a Pyro model of a prior and the law of one step.

    Args:
        prior: of the parameters; its sites are independent.
        log_likelihood: `log_likelihood(theta, s, a, s_next)`, broadcasting.

    Returns:
        A model of :class:`Experience`, and of which of its steps count, `(T,)`; all
        where that is left out.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro import poutine
        >>> def law(theta, s, a, s_next):
        ...     return dist.Normal(theta[..., 0] * a, 1.0).log_prob(s_next)
        >>> prior = Prior({"push": dist.Normal(torch.tensor(0.0), 1.0)})
        >>> steps = Experience(*torch.ones(4, 5))
        >>> trace = poutine.trace(dynamics_model(prior, law)).get_trace(steps)
        >>> list(trace.stochastic_nodes)
        ['push']
    """

    def model(steps: Experience, counts: Tensor | None = None) -> None:
        theta = prior.model()
        gain = log_likelihood(theta, steps.s, steps.a, steps.s_next)
        if counts is not None:
            gain = torch.where(counts, gain, 0.0)
        pyro.factor("steps", gain.sum())

    return model


class MCMCPosterior(ParameterPosterior):
    """Draws of the posterior by many short chains, run when they are asked for.

    Chains of a later step start where those of an earlier one have ended. Most steps
    are cheaper with :class:`PSISPosterior`, which takes this one as its `fallback`.

    With a `log_likelihood` the experience is padded to a capacity that doubles, and the
    copies of steps count for nothing. The density is then traced once for each capacity
    and not at every step. A `model` of the user's is traced at every number of steps.

    Args:
        prior: of the parameters; its names are those of the model's sites.
        log_likelihood: `log_likelihood(theta, s, a, s_next)` of one step, for `theta`
            `(..., P)`.
        model: in place of `log_likelihood` a Pyro model, `model(experience)`, whose
            latent sites are those of `prior`.
        num_draws: draws of all chains together.
        num_chains: chains, run side by side.
        warmup_steps: of the first run; later ones take half of them.
        seed: of all runs.
        kernel: makes the kernel of a model or a `Target`; batched HMC when left out.

    Attributes:
        fit: the last run.
        target: the density that was traced for the present capacity.

    Example:
        >>> import pyro.distributions as dist
        >>> def law(theta, s, a, s_next):
        ...     return dist.Normal(theta[..., 0] * a, 1.0).log_prob(s_next)
        >>> prior = Prior({"push": dist.Normal(torch.tensor(0.0), 1.0)})
        >>> posterior = MCMCPosterior(prior, law, num_draws=32, warmup_steps=10)
        >>> one = torch.tensor(1.0)
        >>> posterior.observe(one, one, 0.0, one)
        >>> posterior.knowledge().theta.shape
        torch.Size([32, 1])
    """

    def __init__(
        self,
        prior: Prior,
        log_likelihood: LogLikelihood | None = None,
        *,
        model: Callable[[Experience], Any] | None = None,
        num_draws: int = 512,
        num_chains: int = 32,
        warmup_steps: int = 150,
        seed: int = 0,
        kernel: Callable[[Callable[..., Any]], Any] | None = None,
    ) -> None:
        one = (log_likelihood is None) != (model is None)
        check(one, "model", "both or none", "a model, or log_likelihood")
        check_count("num_chains", num_chains)
        check_count("num_draws", num_draws, num_chains)
        check_count("warmup_steps", warmup_steps)
        self._pads = log_likelihood is not None
        if log_likelihood is not None:
            model = dynamics_model(prior, log_likelihood)
        assert model is not None
        self.prior, self.model, self.seed = prior, model, seed
        self.num_draws, self.num_chains = num_draws, num_chains
        self.warmup_steps = warmup_steps
        self._kernel = HMC if kernel is None else kernel
        self.steps: Experience | None = None
        self.fit: MCMC | None = None
        self.target: Target | None = None
        self._capacity = 0
        self._known = self._before = Knowledge(
            prior.sample(num_draws, seed), torch.zeros(num_draws).log_softmax(0)
        )
        self._stale = False
        self.ess = float(num_draws)

    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Keep a step for the next run.

        Args:
            s: the state.
            a: the action.
            reward: the reward.
            s_next: the state that followed.
        """
        step = Experience.of_step(s, a, reward, s_next)
        self.steps = step if self.steps is None else self.steps.joined(step)
        self._stale = True

    def knowledge(self) -> Knowledge:
        """Give draws, of a new run where steps were observed since the last one."""
        if self._stale:
            self._run()
        return self._known

    def prior_knowledge(self) -> Knowledge:
        """Give the draws of the prior that were there before anything was observed."""
        return self._before

    def _subject(self, steps: Experience) -> tuple[Any, tuple[Any, ...]]:
        """What is sampled, a model or what was traced of it, and the data."""
        if not self._pads:
            return self.model, (steps,)
        capacity = max(_LEAST_CAPACITY, 1 << (len(steps.reward) - 1).bit_length())
        data = steps.padded(capacity)
        if self.target is None or capacity != self._capacity:
            self.target = Target.from_model(self.model, *data)
            self._capacity = capacity
        return self.target, data

    def _run(self) -> None:
        assert self.steps is not None
        count, chains = len(self.steps.reward), self.num_chains
        begin: dict[str, Any] = {}
        warmup = self.warmup_steps
        if self.fit is not None:
            last = self.fit.get_samples(group_by_chain=True)
            begin = {"initial_params": {n: last[n][:, -1] for n in self.prior.sites}}
            warmup = max(1, warmup // 2)
        subject, data = self._subject(self.steps)
        self.fit = MCMC(
            self._kernel(subject),
            num_samples=-(-self.num_draws // chains),
            warmup_steps=warmup,
            num_chains=chains,
            seed=substream(self.seed, count),
            progress_bar=False,
            **begin,
        ).run(*data)
        sites = self.fit.get_samples()
        theta = self.prior.joined({n: sites[n] for n in self.prior.sites})
        self._known = Knowledge(theta, torch.zeros(len(theta)).log_softmax(0))
        # chains are independent: between one draw of each and all of them
        values = self.fit.diagnostics()
        sizes = [torch.as_tensor(values[n]["n_eff"]).min() for n in self.prior.sites]
        self.ess = float(torch.stack([x.double() for x in sizes]).min())
        self._stale = False
