"""`DIMS`: the sampler as users meet it, in our runner and in Pyro's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.pyro_adapter import PyroKernel
from pyro_geo.infer.mcmc.dims.kernel import DIMSKernel
from pyro_geo.infer.mcmc.runner import MCMC

__all__ = ["DIMS", "sample_minima"]


class DIMS(DIMSKernel, PyroKernel):
    r"""Sample minimum level sets of a loss by dissipative Riemannian mechanics.

    Particles leave a trained solution, the anchor, slide on the surface
    :math:`(\theta, \alpha L(\theta))` under gravity and friction, and are kept where
    they come to rest: an ensemble of equally good solutions for one training run.

    .. math:: \ddot\theta = -[\alpha^2 v^T H v + g]\, d/W^2 - f(K)\, v,
              \qquad W^2 = 1 + \alpha^2 |d|^2

    Three stages: *explore* under the friction given, *settle* under strong linear
    friction, *polish* by trust-region Newton steps. Use it where there are more
    parameters than the data determine. The draws are equally weighted and, given the
    anchor, independent; they are **not** posterior draws, and their intervals are not
    credible intervals. For those use a posterior sampler.

    In :class:`pyro_geo.infer.MCMC` a chain is an anchor and its draws are
    trajectories from it, `num_lanes` in flight. The same object works in
    `pyro.infer.MCMC`, one chain at a time; randomness then comes from torch's global
    generator.

    Args:
        model: a Pyro model, or a :class:`pyro_geo.Target` (of a module, say).
        potential_fn: instead of a model, a function of a dictionary of unconstrained
            values; its sites are those of `anchors`.
        loss: `"nll"`, minus the log-likelihood; `"joint"`, minus the log-joint in
            unconstrained space; or a function of a dictionary of unconstrained values.
        prior_weight: share of the prior added to `"nll"`; 0 keeps exact likelihood
            level sets.
        transforms: with `potential_fn`, site to the map from constrained to
            unconstrained values, as Pyro has them.
        init_strategy: start of the anchors' training, see :meth:`Target.initial`;
            medians of the prior by default.
        anchors: trained solutions instead: flat unconstrained `(num_chains, dim)`, or
            site to constrained values (an `AutoDelta` guide's median, say).
        alpha: embedding scale; 0 is Euclidean and several times cheaper.
        gravity: weight of the loss in the energy.
        friction: friction of the exploring stage.
        friction_law: `"kinetic"` (`mu sqrt(K)`), `"linear"` (`mu`), `"mixed"` (a pair).
        explore_time: length of the exploring stage.
        settle_time: length of the settling stage; 0 skips it.
        settle_friction: its linear friction.
        polish: whether to end with Newton steps.
        polish_tol: predicted decrease, in nats, at which the polish stops.
        polish_max_iter: Newton steps allowed.
        velocity: `"laplace"` (covariance of the Laplace approximation at the anchor),
            `"isotropic"`, `"fixed_energy"`, or `f(anchor, n, generator) -> (n, dim)`.
        velocity_scale: multiplies the velocities.
        initial_energy: kinetic energy of `"fixed_energy"`.
        step_tol: energy a step may lose track of, as a share of its friction work.
        energy_atol: energy a trajectory may lose track of besides, in nats.
        k_stop: kinetic energy below which a stage ends early.
        max_evals: model evaluations per trajectory and stage.
        num_lanes: trajectories in flight, default the smaller of all and 256 (64 above
            100 dimensions), rounded up to a multiple of 16.
        integrator: `"splitting"` or `"dopri5"`, with `rtol` and `atol`.
        rtol: relative tolerance of `"dopri5"`.
        atol: absolute tolerance of `"dopri5"`.
        anchor_steps: Adam steps at most to train an anchor.
        anchor_step_size: their largest step size.

    Raises:
        ConfigurationError: an option is outside its range.

    References:
        "Don't Stop Me Yet: Sampling Loss Minima via Dissipative Riemannian
        Mechanics", arXiv 2605.15459.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import MCMC
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
        >>> x, y = torch.eye(3)[:2], torch.tensor([1.0, -1.0])
        >>> fit = MCMC(DIMS(model), 16, seed=1, progress_bar=False).run(x, y)
        >>> w = fit.get_samples()["w"]
        >>> bool((w[:, :2] - y).abs().max() < 0.05), bool(w[:, 2].std() > 0.1)
        (True, True)
    """

    buffer = 64
    shown_stat = "loss"

    def __init__(
        self, model: Callable[..., Any] | Target | None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self._forget()

    def first_position(self, target: Target) -> Tensor:
        """Where the training of the anchor starts."""
        return target.initial(1, self.init_strategy or target.default_strategy)

    def _figures(self, stats: dict[str, Tensor]) -> dict[str, float]:
        return {"converged": float(stats["converged"].float().mean())}


def sample_minima(
    model: Callable[..., Any] | Target,
    *args: Any,
    num_samples: int = 100,
    num_chains: int = 1,
    seed: int | None = None,
    compile: Literal["auto"] | bool = "auto",
    dtype: torch.dtype | None = None,
    progress_bar: bool = False,
    **options: Any,
) -> MCMC:
    """Sample minima of a model's loss in one call.

    The same as `MCMC(DIMS(model, **options), ...).run(*args)`.

    Args:
        model: a Pyro model or a target.
        *args: the model's arguments.
        num_samples: draws per anchor.
        num_chains: anchors.
        seed: see :class:`~pyro_geo.infer.MCMC`.
        compile: see :class:`~pyro_geo.infer.MCMC`.
        dtype: floating type; torch's default if None.
        progress_bar: whether to show one.
        **options: of :class:`DIMS`.

    Returns:
        The finished run.

    Example:
        >>> target = Target.from_potential(lambda q: (q[0] * q[1] - 1) ** 2, 2)
        >>> start = torch.tensor([[1.0, 1.0]])
        >>> fit = sample_minima(
        ...     target, num_samples=4, seed=1, anchors=start, velocity="isotropic"
        ... )
        >>> q = fit.positions[0]
        >>> bool((q.prod(-1) - 1).abs().max() < 0.1)
        True
    """
    fit = MCMC(
        DIMS(model, **options),
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        compile=compile,
        dtype=dtype,
        progress_bar=progress_bar,
    )
    return fit.run(*args)
