"""The joint-distribution test: parameters and data drawn from each other in turn.

A sampler of the posterior, alternated with simulation of new data, leaves the joint
distribution of parameters and data as it is. The chains start in exactly that
distribution, so that every sweep of a sound sampler is still in it, however badly it
mixes: no burn-in, no autocorrelation, just independent chains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.density import Target
from pyro_geo.engine.blocks import ChainGroup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.ops.random import substream
from pyro_geo.testing._posterior_gate import component_names, student
from pyro_geo.testing._replicates import ReplicateTarget, Simulator

__all__ = ["GewekeResult", "check_geweke", "geweke"]

Values = dict[str, Tensor]
Functions = Callable[[Values, Values], Values]

_LEAST_CHAINS = 30


class GewekeResult(NamedTuple):
    """Moments of both simulators, compared.

    Attributes:
        names: of the moments, such as `mu` and `mu, squared`.
        differences: successive less independent draws, as means of normal scores and
            of their squares, `(moments,)`.
        scores: the same in standard errors.
        freedom: degrees of freedom of the scores.
    """

    names: tuple[str, ...]
    differences: Tensor
    scores: Tensor
    freedom: Tensor


def geweke(
    model: Callable[..., Any],
    args: Sequence[Any],
    make_kernel: Callable[[Target], Kernel],
    *,
    num_chains: int = 256,
    num_sweeps: int = 10,
    transitions: int = 2,
    warmup_steps: int = 0,
    functions: Functions | None = None,
    observed: Sequence[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> GewekeResult:
    """Alternate a sampler with the simulation of data, and compare with fresh draws.

    Chain `i` has its own data. It starts at a draw from the prior and data simulated
    from it; a sweep is some transitions given the data, of which the last draw is kept
    with the data, then new data given that draw. As many pairs are simulated from
    scratch. Every test function is replaced by its normal score among all pairs, so
    that priors without moments do no harm, and the means of scores and of their squares
    are compared by the spread of chain means.

    A kernel that tunes itself does so on data sets of its own, and is used frozen.

    Args:
        model: a Pyro model without factors.
        args: its arguments; what they observe is replaced by simulated data.
        make_kernel: from a target to the kernel, such as `HMC`.
        num_chains: chains, at least 30.
        num_sweeps: sweeps of each chain; a fault adds up over them.
        transitions: draws of the kernel in a sweep.
        warmup_steps: steps the kernel may tune itself for.
        functions: from latent and observed values, site to `(n, *shape)`, to named
            numbers `(n,)`. If None: all components of the unconstrained latent
            sites, the mean of every observed site, the log-prior and the
            log-likelihood.
        observed: sites that are data; those that `args` observe if None.
        seed: of everything.
        dtype: floating type, torch's default if None.

    Returns:
        Scores of every moment; :func:`check_geweke` judges them. Too few chains or
        sweeps are a :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Geweke (2004), Getting it right: joint distribution tests of posterior
        simulators.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.testing.hmc import FixedHMC
        >>> def model(y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> def kernel(target):
        ...     return FixedHMC(target, step_size=0.7, num_steps=2)
        >>> options = {"num_chains": 40, "num_sweeps": 2}
        >>> result = geweke(model, [], kernel, observed=["y"], **options)
        >>> check_geweke(result)
        >>> result.names[:4]
        ('mean', 'mean, squared', 'average of y', 'average of y, squared')
    """
    check_count("num_chains", num_chains, _LEAST_CHAINS)
    check_count("num_sweeps", num_sweeps)
    check_count("transitions", transitions)
    simulator = Simulator(model, args, observed=observed, dtype=dtype)
    latents, data = simulator.joint(num_chains, substream(seed, 0))
    target = simulator.target(data, compile=False)
    q = target.unconstrain({n: latents[n] for n in target.layout.sites})
    kernel = make_kernel(target)
    sampled: Any = kernel.make_target()  # which is what is tested
    tuning = None
    if warmup_steps:
        tuning = _tune(simulator, sampled, kernel, q, warmup_steps, seed)

    def numbers(target: ReplicateTarget, q: Tensor, data: Values) -> Values:
        if functions is not None:
            return functions(target.constrain(q), data)
        return _default_functions(target, q, data)

    sweep = _Sweep(kernel, transitions, tuning, Noise(seed))
    successive, independent = [], []
    for index in range(num_sweeps):
        # successive-conditional: latents by the kernel, then data by the model
        conditioned = target.with_observed(data)
        q = sweep(sampled.with_observed(data), q, index)
        successive.append(numbers(conditioned, q, data))
        data = simulator.data(conditioned.constrain(q), substream(seed, 2 * index + 2))
        # marginal-conditional: latents and data by the model alone
        fresh, new_data = simulator.joint(num_chains, substream(seed, 2 * index + 3))
        conditioned = target.with_observed(new_data)
        new_q = target.unconstrain({n: fresh[n] for n in target.layout.sites})
        independent.append(numbers(conditioned, new_q, new_data))
    names, values = _stack(successive)
    _, others = _stack(independent)
    return _compare(names, values, others)


def check_geweke(result: GewekeResult, false_alarm: float = 1e-3) -> None:
    """Both simulators have the same moments.

    Args:
        result: of :func:`geweke`.
        false_alarm: probability that a sound sampler fails, divided over the moments.

    Raises:
        AssertionError: with every moment that differs, and by how much.
    """
    lines = []
    for name, difference, score, freedom in zip(
        result.names, *(x.tolist() for x in result[1:]), strict=True
    ):
        limit = student(freedom, false_alarm / len(result.names))
        if not abs(score) <= limit:
            lines.append(
                f"{name}: differs by {difference:.3f}, {abs(score):.1f} standard "
                f"errors, limit {limit:.1f}"
            )
    if lines:
        total = len(result.names)
        head = f"{len(lines)} of {total} moments of the joint distribution differ"
        raise AssertionError("\n".join([head, *lines]))


class _Sweep(NamedTuple):
    """Some transitions of every chain at its present data."""

    kernel: Kernel
    transitions: int
    tuning: Any | None
    noise: Noise

    def __call__(self, target: ReplicateTarget, q: Tensor, index: int) -> Tensor:
        chains = range(len(q))
        target = target.with_rung("mapped")  # too few steps for a trace to pay
        # a new start in each sweep: a stored density and gradient are of the old data
        streams = self.noise.region(1).block(chains, index)
        group = ChainGroup(chains, len(q), self.transitions, 0, streams, q, self.tuning)
        start = self.kernel.start(target, group)
        block = self.kernel.block(
            target,
            start.state,
            chains,
            self.transitions,
            self.noise.block(chains, index),
        )
        return block.q[:, -1]


def _tune(
    simulator: Simulator,
    target: ReplicateTarget,
    kernel: Kernel,
    q: Tensor,
    warmup_steps: int,
    seed: int,
) -> Any | None:
    """Let the kernel tune itself on other data, so that the chains stay exact."""
    _, data = simulator.joint(len(q), substream(seed, 1))
    other = target.with_observed(data).with_rung("traced")
    *_, warm = warm_up(
        kernel,
        lambda: other,
        range(len(q)),
        num_samples=warmup_steps,
        num_chains=len(q),
        warmup_steps=warmup_steps,
        noise=Noise(seed, region=2),
        initial=other.initial(
            len(q), "uniform", torch.Generator().manual_seed(substream(seed, 1))
        ),
    )
    return kernel.tuning(warm.state)


def _default_functions(target: ReplicateTarget, q: Tensor, data: Values) -> Values:
    values: Values = {}
    for name, site in target.layout.sites.items():
        columns = q[:, site.slice].unbind(1)
        values |= zip(component_names(name, site.shape), columns, strict=True)
    for name, value in data.items():
        values[f"average of {name}"] = value.to(q).reshape(len(q), -1).mean(1)
    with torch.no_grad():
        terms = target.terms(q)
    return values | terms._asdict()


def _stack(sweeps: list[Values]) -> tuple[list[str], Tensor]:
    """Values of all functions, `(functions, chains, sweeps)`."""
    names = list(sweeps[0])
    rows = [torch.stack([sweep[name] for name in names]) for sweep in sweeps]
    return names, torch.stack(rows, -1).double()


def _compare(names: list[str], ours: Tensor, theirs: Tensor) -> GewekeResult:
    """Compare means of scores and squared scores, chain by chain."""
    z = _normal_scores(torch.cat([ours, theirs], 1))
    z, w = z[:, : ours.shape[1]], z[:, ours.shape[1] :].flatten(1)
    means = torch.stack([z, z * z], 1).mean(-1)  # (functions, 2, chains)
    other = torch.stack([w, w * w], 1)  # every draw is independent
    difference = (means.mean(-1) - other.mean(-1)).flatten()
    first = (means.var(-1) / means.shape[-1]).flatten()
    second = (other.var(-1) / other.shape[-1]).flatten()
    variance = first + second
    # Welch and Satterthwaite's degrees of freedom
    freedom = variance**2 / (
        first**2 / (means.shape[-1] - 1) + second**2 / (other.shape[-1] - 1)
    )
    labels = [label for name in names for label in (name, f"{name}, squared")]
    return GewekeResult(
        tuple(labels), difference, difference / variance.sqrt(), freedom
    )


def _normal_scores(x: Tensor) -> Tensor:
    """Replace each row's values by normal scores of their ranks; ties share one."""
    flat = x.flatten(1)
    rows = []
    for row in flat:
        _, place, counts = row.unique(return_inverse=True, return_counts=True)
        counts = counts.to(row.dtype)
        rank = counts.cumsum(0) - 0.5 * (counts - 1)  # average rank of each value
        rows.append(torch.special.ndtri((rank[place] - 0.375) / (len(row) + 0.25)))
    return torch.stack(rows).view_as(x)
