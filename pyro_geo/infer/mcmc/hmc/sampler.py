"""`HMC`: the sampler as users meet it, in our runner and in Pyro's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.pyro_adapter import PyroKernel
from pyro_geo.infer.mcmc.hmc.kernel import HMCKernel
from pyro_geo.infer.mcmc.hmc.starts import first_start

__all__ = ["HMC"]


class HMC(HMCKernel, PyroKernel):
    r"""Sample a posterior by Hamiltonian Monte Carlo, all chains in one batch.

    Each transition draws a momentum, follows

    .. math:: \dot q = \Sigma p, \qquad \dot p = -\nabla U(q)

    by leapfrog steps and accepts or rejects the end. Warm-up finds the step size by
    dual averaging, the trajectory length by squared jumps of positions and of their
    squares across chains (the second is the ChEES criterion), and the
    metric :math:`\Sigma` from draws and gradients together: the one of least Fisher
    divergence solves :math:`\Sigma\,\mathrm{cov}(\nabla U)\,\Sigma = \mathrm{cov}(q)`.
    All of it is frozen before the first draw that counts. Prefer it for any posterior
    with continuous parameters; where the minima of a loss form a surface and that
    surface is wanted, use :class:`~pyro_geo.infer.DIMS`.

    The first chains, at most 256 or `chain_batch_size`, tune side by side. Further
    chains start twice as wide as the posterior and burn in for half the warm-up
    with the tuning frozen. The more chains, the shorter the warm-up: leave
    `warmup_steps` out. The same object works in `pyro.infer.MCMC` with one chain;
    randomness then comes from torch's global generator.

    Args:
        model: a Pyro model, or a :class:`pyro_geo.Target`.
        step_size: largest leapfrog step in units of the metric; adapted if None.
        trajectory_length: mean length in units of the metric, where a quarter of a
            period of a normal density is 1.57; adapted if None.
        metric: `"diagonal"`, `"dense"`, `"low_rank"` (diagonal plus rank 32), or
            `"auto"`: dense up to 100 dimensions, low rank above, where warm-up makes
            at least 10 draws per dimension, or 320; diagonal otherwise. The result's
            attributes say which.
        target_accept_prob: acceptance rate that the step size is adapted to.
        jitter: largest relative deviation of a trajectory's length from the mean.
        max_leapfrog: leapfrog steps of one transition at most.
        init_strategy: starts, see :meth:`Target.initial`; or `"laplace"`, which climbs
            from a uniform start to the mode next to it and draws from the normal
            density there: quick to warm up, but modes that no start is near are not
            seen, and R-hat cannot tell.
        unroll: leapfrog steps in one compiled graph; `"auto"` takes 2 where a step is
            so small that calling it is most of the cost, else 1. A number of steps
            that is no multiple evaluates the remainder for nothing.

    Raises:
        ConfigurationError: an option is outside its range.

    References:
        Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting
        trajectory lengths in Hamiltonian Monte Carlo, PMLR 130.
        Seyboldt, Carlson & Carpenter (2026), Preconditioning Hamiltonian Monte Carlo
        by minimizing Fisher divergence, arXiv 2603.18845.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_geo.infer import MCMC
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> fit = MCMC(HMC(model), 100, 100, 16, seed=1, progress_bar=False)
        >>> fit = fit.run(torch.tensor([3.9, 4.1, 4.0]))
        >>> abs(float(fit.get_samples()["mean"].mean()) - 3.99) < 0.1
        True
    """

    shown_stat = "acceptance_rate"

    def __init__(self, model: Callable[..., Any] | Target, **options: Any) -> None:
        super().__init__(model, **options)
        self._forget()

    def first_position(self, target: Target) -> Tensor:
        """Scatter the start as told."""
        return first_start(target, self.init_strategy)

    def _figures(self, stats: dict[str, Tensor]) -> dict[str, float]:
        return {"acceptance rate": float(stats["acceptance_rate"].mean())}
