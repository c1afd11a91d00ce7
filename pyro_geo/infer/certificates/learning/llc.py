"""Local learning coefficients by a Metropolis-corrected sampler."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_shape
from pyro_geo.density import Localisation, Target
from pyro_geo.engine.noise import SequentialNoise
from pyro_geo.errors import ConvergenceWarning, NonFiniteLossError
from pyro_geo.geometry.laplace import laplace
from pyro_geo.geometry.matrices import Dense, Diagonal, Spectral
from pyro_geo.infer.certificates.learning.agreement import compare_chains
from pyro_geo.infer.certificates.learning.starts import way_down
from pyro_geo.infer.step_size import averaged, restart, update
from pyro_geo.infer.transition import TransitionLoop, chain_state_at
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["LLC", "llc"]

_DENSE_DIM = 1_000  # above it the Hessian is not worth its cost
_LANES = 256
_STEEP = 0.1  # nats that a Newton step may still win before it is called no minimum


class LLC(NamedTuple):
    r"""A local learning coefficient, and what tells how far to trust it.

    A start that is no minimum, or chains that disagree, leave no coefficient: `value`
    and `heat_capacity` are NaN then, `reasons` say why, and `estimate` and `trace` hold
    what the chains gave all the same.

    Attributes:
        value: :math:`n \beta (E[L_n] - L_n(w_0))`; NaN where not `reliable`.
        standard_error: from the spread of the chains.
        r_hat: of the loss; of four parts of a single chain.
        ess: of the loss, bulk.
        drift: second half of the draws minus the first.
        heat_capacity: :math:`\beta^2 \mathrm{Var}(n L_n)`, another estimate of it; NaN
            where not `reliable`.
        beta: inverse temperature of one example.
        acceptance: rate of the moves.
        step_size: found by the warm-up.
        trace: :math:`n L_n` of every draw, `(chains, draws)`.
        start: :math:`n L_n(w_0)`.
        reliable: whether nothing speaks against the estimate.
        reasons: what does.
        estimate: `value` before it was judged.
    """

    value: float
    standard_error: float
    r_hat: float
    ess: float
    drift: float
    heat_capacity: float
    beta: float
    acceptance: float
    step_size: float
    trace: Tensor
    start: float
    reliable: bool
    reasons: tuple[str, ...]
    estimate: float

    def __str__(self) -> str:
        """The coefficient with its standard error, or why there is none."""
        if not self.reliable:
            return f"no learning coefficient: {'; '.join(self.reasons)}"
        return f"learning coefficient {self.value:.4g} ± {self.standard_error:.2g}"


@renamed(localization="localisation")
def llc(
    target: Target,
    at: Tensor | Mapping[str, Tensor],
    *,
    n: int,
    beta: float | None = None,
    localisation: float = 1.0,
    num_chains: int = 8,
    warmup_steps: int = 100,
    num_samples: int = 200,
    num_leapfrog: int = 15,
    jitter: float = 0.2,
    target_accept_prob: float = 0.8,
    seed: int | None = None,
) -> LLC:
    r"""Estimate the learning coefficient around a minimum of the loss.

    .. math:: \hat\lambda = n \beta \bigl(E[L_n(w)] - L_n(w_0)\bigr), \qquad
              w \sim \exp\Bigl(-n \beta L_n(w) - \frac{\gamma}{2} |w - w_0|^2\Bigr)

    with :math:`n L_n` minus the target's log-likelihood, on all data; the prior is
    left out. Chains are HMC, all in one batch, Metropolis-corrected: no step size makes
    the estimate wrong, as it does for Langevin samplers. They start around
    :math:`w_0`, not at it, as wide as the loss allows, and where there are at most
    1,000 parameters they move in a metric halfway between the identity and the
    quadratic approximation; warm-up adapts the step size alone. The value is one at a
    finite temperature: it tends to the coefficient as :math:`n \beta` grows, from
    below where the multiplicity is above 1.

    Args:
        target: of a model or a module; its log-likelihood is what counts.
        at: the minimum, flat `(dim,)` and unconstrained, or site to value.
        n: number of examples.
        beta: inverse temperature of one example; `1 / log(n)` if None.
        localisation: strength :math:`\gamma` of the pull towards the minimum.
        num_chains: chains.
        warmup_steps: moves of warm-up.
        num_samples: draws of each chain.
        num_leapfrog: steps of one move.
        jitter: largest relative deviation of a move's step size.
        target_accept_prob: acceptance rate that the step size is adapted to.
        seed: of the run; drawn from torch's global generator if None.

    Returns:
        The estimate. An option out of range is a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite at the start.

    Warns:
        ConvergenceWarning: the result is not reliable, because the start is no minimum
            (a Newton step, or a step along negative curvature, wins more than 0.1
            nats), a chain has found a loss lower by as much, or chains disagree.

    References:
        Lau, Furman, Wang, Murfet & Wei (2023), The local learning coefficient: a
        singularity-aware complexity measure, 2308.12108.

    Example:
        >>> target = Target.from_potential(
        ...     lambda q: 50 * (q[:2] ** 2).sum(), 3, dtype=torch.float64
        ... )
        >>> result = llc(target, torch.zeros(3).double(), n=100, seed=0)
        >>> abs(result.value - 1) < 0.1  # two directions count, half each
        True
    """
    counts = {
        "num_chains": num_chains,
        "warmup_steps": warmup_steps,
        "num_samples": num_samples,
        "num_leapfrog": num_leapfrog,
        "n": n - 1,
    }
    for name, count in counts.items():
        check(count >= 1, name, count, "a positive count (examples: 2)")
    beta = 1 / math.log(n) if beta is None else beta
    check(0 < beta < math.inf, "beta", beta, "a positive number")
    check(localisation > 0, "localisation", localisation, "a positive number")
    check(0 <= jitter < 1, "jitter", jitter, "at least 0 and below 1")
    centre = _position(target, at)
    pull = Localisation(centre, localisation)
    tempered = target.tempered(beta, prior=pull)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    generator = torch.Generator().manual_seed(seed % 2**63)
    loss = _loss_of(target)
    start = float(loss(centre[None])[0])
    metric, predicted = _quadratic(tempered, centre, localisation)
    if not math.isfinite(start) or not math.isfinite(predicted):
        raise NonFiniteLossError(
            "no learning coefficient without a loss",
            where="argument at",
            found=f"a summed loss of {start}, and {predicted} nats to win by one step",
            expected="finite numbers",
            todo="Pass a minimum of the loss, such as a trained solution.",
        )
    reasons = _judge_start(tempered, centre, localisation, predicted, beta, loss, seed)
    sampler = _Sampler(tempered, metric, num_chains, num_leapfrog, jitter, generator)
    sampler.spread(centre)
    sampler.warm_up(warmup_steps, target_accept_prob)
    draws, rates = sampler.draw(num_samples)
    trace = loss(draws.flatten(0, 1)).reshape(num_chains, num_samples)
    return _report(trace, start, beta, float(rates.mean()), sampler.step_size, reasons)


class _Sampler:
    """Chains of HMC with one step size, jittered from move to move."""

    def __init__(
        self,
        target: Target,
        metric: Dense | Diagonal,
        num_chains: int,
        num_leapfrog: int,
        jitter: float,
        generator: torch.Generator,
    ) -> None:
        self.target, self.metric = target, metric
        self.num_chains, self.num_leapfrog = num_chains, num_leapfrog
        self.jitter, self.generator = jitter, generator
        self.step_size = 0.3

    def normal(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=self.target.dtype)
        return values.to(self.target.device)

    def spread(self, centre: Tensor) -> None:
        """Start from the quadratic approximation, narrower where that is too wide."""
        noise = self.metric.sample(self.normal(self.num_chains, self.target.dim))
        q = centre + noise
        usual = self.target.dim / 2  # mean of a quadratic potential above its minimum
        base = chain_state_at(self.target, centre[None]).potential
        for _ in range(30):
            chains = chain_state_at(self.target, q)
            # three times what a quadratic has on average is far out in the tails
            far = ~(chains.potential - base <= 3 * usual + 10)
            if not bool(far.any()):
                break
            q = torch.where(far[:, None], centre + 0.7 * (q - centre), q)
        self.chains = chain_state_at(self.target, q)
        # a divisor of the number of steps, so that the last graph has no unused ones
        unroll = max(u for u in range(1, 6) if self.num_leapfrog % u == 0)
        self._step = TransitionLoop(self.target, self.chains, self.metric, unroll)

    def move(self, step_size: float) -> Tensor:
        """Make one move of all chains; their acceptance rates."""
        draw = torch.rand(self.num_chains + 1, generator=self.generator)
        uniform = draw[1:].to(self.chains.potential)
        step_size *= 1 + self.jitter * (2 * float(draw[0]) - 1)
        sizes = torch.full_like(self.chains.potential, step_size)
        momentum = self.normal(self.num_chains, self.target.dim)
        self.chains, trajectory = self._step(
            self.metric, self.chains, momentum, uniform, sizes, self.num_leapfrog
        )
        return (-trajectory.error).exp().clamp(max=1.0)

    def warm_up(self, steps: int, target_accept_prob: float) -> None:
        """Find the step size by dual averaging."""
        search = restart(self.step_size)
        for _ in range(steps):
            rate = self.move(math.exp(search.log_step))
            search = update(search, float(rate.mean()), target_accept_prob)
        self.step_size = averaged(search)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws `(chains, draws, dim)`, and acceptance rates `(chains, draws)`."""
        q, rates = [], []
        for _ in range(count):
            rates.append(self.move(self.step_size))
            q.append(self.chains.q)
        return torch.stack(q, 1), torch.stack(rates, 1)


def _quadratic(
    target: Target, centre: Tensor, pull: float
) -> tuple[Dense | Diagonal, float]:
    """Metric of the quadratic approximation, and the decrease it predicts."""
    dim = target.dim
    # called once: tracing would cost more than it saves
    grad = value_and_grad(target.log_prob, centre[None])[1][0]
    if dim > _DENSE_DIM:
        return Diagonal(torch.ones_like(centre)), float(0.5 * grad.square().sum())
    # a loss cannot be flatter at its minimum than the pull makes it
    approximation = laplace(
        target.with_rung("mapped"), centre, curvature="hessian", floor=pull, flat=pull
    )
    assert isinstance(approximation.precision, Spectral)
    values, vectors = approximation.precision
    predicted = 0.5 * (grad * approximation.precision.solve(grad)).sum()
    # the root of the covariance: where the loss is singular the quadratic approximation
    # is far wider than the density, so the metric goes halfway to the identity
    covariance = (vectors * values.rsqrt()) @ vectors.mT
    return Dense.from_matrix(covariance), float(predicted)


def _loss_of(target: Target) -> Callable[[Tensor], Tensor]:
    """Sum of the loss over all examples, at any number of positions."""

    def loss(q: Tensor) -> Tensor:
        return -map_chunks(target.log_likelihood, q, _LANES).double()

    return loss


def _judge_start(
    tempered: Target,
    centre: Tensor,
    pull: float,
    predicted: float,
    beta: float,
    loss: Callable[[Tensor], Tensor],
    seed: int,
) -> list[str]:
    """Say why the start is no minimum of the loss; empty where it may be one."""
    reasons = []
    if not predicted <= _STEEP:
        reasons.append(
            f"the start is no minimum: a Newton step predicts a decrease of "
            f"{predicted:.3g} nats, above {_STEEP}"
        )
    gain = way_down(
        tempered,
        centre,
        pull,
        lambda q: beta * loss(q),
        predicted,
        SequentialNoise(seed, 1),
    )
    if gain > _STEEP:
        reasons.append(
            f"the start is no minimum: the loss curves down in a direction along which "
            f"it falls by {gain:.3g} nats, above {_STEEP}"
        )
    return reasons


def _report(
    trace: Tensor,
    start: float,
    beta: float,
    acceptance: float,
    step_size: float,
    reasons: list[str],
) -> LLC:
    # lambda = n beta (E L_n(w) - L_n(w*)), the estimator of Lau et al. (2023)
    values = beta * (trace - start)
    means = values.mean(1)
    chains, draws = values.shape
    error = float(means.std()) / chains**0.5 if chains > 1 else math.nan
    half = draws // 2
    found = compare_chains(values)
    lower = -float(values.min())
    if lower > _STEEP:
        reasons.append(
            f"a chain found a lower loss than the start's, by {lower:.3g} nats, above "
            f"{_STEEP}"
        )
    reasons += found.reasons
    reliable, estimate = not reasons, float(means.mean())
    for reason in reasons:
        warnings.warn(_unreliable("llc", reason), stacklevel=4)
    return LLC(
        value=estimate if reliable else math.nan,
        standard_error=error,
        r_hat=found.r_hat,
        ess=found.ess,
        drift=float(values[:, half:].mean() - values[:, :half].mean()),
        heat_capacity=float((beta * trace).var()) if reliable else math.nan,
        beta=beta,
        acceptance=acceptance,
        step_size=step_size,
        trace=trace,
        start=start,
        reliable=reliable,
        reasons=tuple(reasons),
        estimate=estimate,
    )


def _unreliable(where: str, reason: str) -> ConvergenceWarning:
    return ConvergenceWarning(
        "the result is not reliable",
        where=where,
        found=reason,
        expected="a minimum, and chains that agree",
        todo="Train further, or draw longer; see trace, drift and estimate.",
    )


def _position(target: Target, at: Tensor | Mapping[str, Tensor]) -> Tensor:
    q = target.unconstrain(at) if isinstance(at, Mapping) else at
    check_shape("at", q.shape, (target.dim,))
    return q.detach().to(dtype=target.dtype, device=target.device)
