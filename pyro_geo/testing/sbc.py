"""Simulation-based calibration, all replicates in one batch.

Parameters from the prior, data from the model, draws from the posterior of each data
set: the rank of the true parameter among the draws is then uniform, whatever the model,
if the sampler is right. The replicates are the chains of one run, each with its own
data, so a calibration costs hardly more than a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.density import Target
from pyro_geo.engine.kernel import Kernel
from pyro_geo.errors import SampleSizeError
from pyro_geo.infer.mcmc.runner import MCMC
from pyro_geo.ops.random import substream
from pyro_geo.testing._posterior_gate import component_names
from pyro_geo.testing._replicates import (
    ReplicateTarget,
    Simulator,
    log_likelihood,
)
from pyro_geo.testing._uniformity import uniformity_p_values

__all__ = ["SBCResult", "check_sbc", "sbc", "uniformity_p_values"]

_LARGEST_CORRELATION = 0.1  # between draws that are kept
_LEAST_DRAWS = 15


class SBCResult(NamedTuple):
    """Ranks of the true values among the draws.

    Attributes:
        names: of the quantities, such as `theta[3]`; the last is `log_likelihood`.
        ranks: `(replicates, quantities)`, from 0 to `num_draws`.
        num_draws: draws of each replicate after thinning.
        thin: how many draws apart they are.
        p_values: of uniform ranks, `(quantities,)`.
    """

    names: tuple[str, ...]
    ranks: Tensor
    num_draws: int
    thin: int
    p_values: Tensor


def sbc(
    model: Callable[..., Any],
    args: Sequence[Any],
    make_kernel: Callable[[Target], Kernel],
    *,
    num_replicates: int = 256,
    num_samples: int = 500,
    warmup_steps: int | None = None,
    thin: int | None = None,
    initial: Literal["uniform", "prior"] = "uniform",
    sites: Sequence[str] | None = None,
    observed: Sequence[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> SBCResult:
    """Calibrate a sampler on a model, every replicate a chain of one run.

    Chains start away from the parameters that made their data, so that the warm-up is
    tested too. Draws are thinned until neighbours, averaged over the replicates, are
    correlated by less than 0.1 in every quantity: then the ranks are uniform to within
    what some thousand replicates can show. Besides each scalar component of the latent
    sites the log-likelihood is ranked, for a sampler that ignores the data passes in
    every parameter.

    A kernel tunes itself on all replicates together. Where posteriors differ much in
    scale the narrow ones need a smaller step than the average asks for: raise
    `target_accept_prob`, or chains get stuck, which shows in the ranks.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where there are fewer than
    two replicates, or a site is unknown.

    Args:
        model: a Pyro model without factors.
        args: its arguments; what they observe is replaced by simulated data.
        make_kernel: from a target to the kernel, such as `HMC`.
        num_replicates: data sets, and chains.
        num_samples: draws of each before thinning.
        warmup_steps: of each; the kernel's own default if None.
        thin: keep every `thin`-th draw; found out if None.
        initial: where chains start: uniformly on (-2, 2) in unconstrained space, or at
            draws from the prior of their own.
        sites: latent sites to rank; all if None.
        observed: sites that are data; those that `args` observe if None.
        seed: of everything.
        dtype: floating type, torch's default if None.

    Returns:
        Ranks and p-values; :func:`check_sbc` judges them.

    Raises:
        SampleSizeError: fewer than 15 draws are left after thinning.

    References:
        Talts et al. (2018), Validating Bayesian inference algorithms with
        simulation-based calibration, 1804.06788; Modrák et al. (2023), 2211.02383, for
        the log-likelihood.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.testing.hmc import FixedHMC
        >>> def model(y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> def kernel(target):
        ...     return FixedHMC(target, step_size=0.4, num_steps=3)
        >>> options = {"num_replicates": 50, "num_samples": 60, "warmup_steps": 10}
        >>> result = sbc(model, [], kernel, observed=["y"], **options)
        >>> result.names, result.ranks.shape
        (('mean', 'log_likelihood'), torch.Size([50, 2]))
        >>> check_sbc(result)
    """
    _check(num_replicates, num_samples, thin)
    simulator = Simulator(model, args, observed=observed, dtype=dtype)
    latents, data = simulator.joint(num_replicates, substream(seed, 0))
    target = simulator.target(data)
    unknown = set(sites or ()) - set(target.layout.sites)
    check(not unknown, "sites", sorted(unknown), f"some of {list(target.layout.sites)}")
    if initial == "prior":
        others, _ = simulator.joint(num_replicates, substream(seed, 1))
        start = target.unconstrain({n: others[n] for n in target.layout.sites})
    else:
        start = target.initial(num_replicates, "uniform", _generator(seed, 1))
    q = _sample(target, start, make_kernel, num_samples, warmup_steps, seed)
    truth = target.unconstrain({n: latents[n] for n in target.layout.sites})
    names = list(sites or target.layout.sites)
    if thin is None:
        thin = _thinning(_quantities(target, q, names))
    thinned = q[:, thin - 1 :: thin]
    if thinned.shape[1] < _LEAST_DRAWS:
        raise SampleSizeError(
            "too few independent draws for ranks",
            "argument num_samples",
            f"{thinned.shape[1]} of {num_samples} draws, {thin} apart",
            f"at least {_LEAST_DRAWS}",
            "Ask for more samples, or for longer trajectories.",
        )
    ranks = _ranks(
        _quantities(target, truth[:, None], names),
        _quantities(target, thinned, names),
        _generator(seed, 2),
    )
    labels = [*_labels(target, names), "log_likelihood"]
    p_values = uniformity_p_values(ranks, thinned.shape[1])
    return SBCResult(tuple(labels), ranks, thinned.shape[1], thin, p_values)


def check_sbc(result: SBCResult, false_alarm: float = 1e-3) -> None:
    """Ranks are uniform in every quantity.

    Args:
        result: of :func:`sbc`.
        false_alarm: probability that a sound sampler fails, divided over the
            quantities.

    Raises:
        AssertionError: with every quantity whose ranks are not, and how they lie.
    """
    limit = false_alarm / len(result.names)
    bad = [k for k, p in enumerate(result.p_values.tolist()) if not p > limit]
    if not bad:
        return
    share = (result.ranks.double() + 0.5) / (result.num_draws + 1)
    lines = [f"ranks of {len(bad)} of {len(result.names)} quantities are not uniform"]
    for k in bad:
        mean, variance = float(share[:, k].mean()), float(share[:, k].var())
        lines.append(
            f"{result.names[k]}: p = {float(result.p_values[k]):.1e}, limit "
            f"{limit:.1e}; ranks have mean {mean:.2f} instead of 0.50 and "
            f"{12 * variance:.2f} times the variance"
        )
    raise AssertionError("\n".join(lines))


def _sample(
    target: ReplicateTarget,
    start: Tensor,
    make_kernel: Callable[[Target], Kernel],
    num_samples: int,
    warmup_steps: int | None,
    seed: int,
) -> Tensor:
    """Draw from every replicate's posterior, `(replicates, draws, dim)`."""
    replicates = target.num_replicates
    # a kernel that splits its chains would part them from their data
    most = make_kernel(target).max_lanes or replicates
    parts = []
    for first in range(0, replicates, most):
        own = range(first, min(first + most, replicates))
        part = target.rows(own)
        run = MCMC(
            make_kernel(part),
            num_samples,
            warmup_steps,
            len(own),
            seed=substream(seed, 3 + first),
            initial_params=part.layout.unflatten(start[own.start : own.stop]),
            initial_space="unconstrained",
            compile=False,  # hundreds of chains keep a traced step busy
            progress_bar=False,
        )
        parts.append(run.run().positions)
    return torch.cat(parts)


def _quantities(target: ReplicateTarget, q: Tensor, names: list[str]) -> Tensor:
    """Whatever is ranked, `(replicates, draws, quantities)`."""
    values = target.constrain(q)
    parts = [values[name].reshape(*q.shape[:2], -1) for name in names]
    likelihood = log_likelihood(target, q)[..., None]
    return torch.cat([*parts, likelihood], -1).double()


def _generator(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(substream(seed, index))


def _labels(target: Target, names: list[str]) -> list[str]:
    return [
        label
        for name in names
        for label in component_names(name, target.layout.sites[name].constrained_shape)
    ]


def _thinning(x: Tensor) -> int:
    """Find the smallest distance at which draws are hardly correlated."""
    x = x - x.mean(1, keepdim=True)
    length = x.shape[1]
    padded = torch.fft.rfft(x, 2 * length, dim=1)
    products = torch.fft.irfft(padded.abs() ** 2, 2 * length, dim=1)[:, :length]
    # a replicate counts as much as any other, however wide its posterior
    variance = products[:, :1]
    correlation = torch.where(variance > 0, products / variance, 1.0).mean(0)
    high = (correlation.abs() > _LARGEST_CORRELATION).any(-1)
    for distance in range(1, length):
        if not bool(high[distance::distance].any()):
            return distance
    return length


def _ranks(truth: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """Count the draws below the truth; a tie is broken by chance."""
    ties = (draws == truth).sum(1)
    chance = torch.rand(ties.shape, generator=generator, dtype=torch.float64)
    return (draws < truth).sum(1) + (chance * (ties + 1)).long()


def _check(num_replicates: int, num_samples: int, thin: int | None) -> None:
    counts = {"num_replicates": (num_replicates, 2), "num_samples": (num_samples, 1)}
    for name, (value, least) in (counts | {"thin": (thin or 1, 1)}).items():
        check_count(name, value, least)
