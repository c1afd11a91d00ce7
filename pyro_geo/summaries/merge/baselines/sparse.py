"""Merging of thinned differences: TIES and DARE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._reader import Reader, Rule, elementwise, run, shifted
from pyro_geo.summaries.merge._tasks import Models, StateDict

__all__ = ["dare", "ties"]

_DIGITS = ((47, 16), (31, 16), (15, 16), (0, 15))  # lowest bit and width, of 63 bits


@cites("ties")
def ties(
    base: StateDict,
    models: Models,
    *,
    density: float = 0.2,
    scale: float = 1.0,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Trim differences, elect a sign for each parameter, and average those of it.

    Of each task only the largest differences are kept, over all tensors together. With
    :math:`\gamma = \operatorname{sgn} \sum_k \hat\tau_k` the merged difference is the
    mean of the :math:`\hat\tau_k \neq 0` that have this sign. Where kept differences
    cancel exactly, it is zero.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        density: share of the differences that is kept, in (0, 1]; differences as large
            as the smallest that is kept are kept too.
        scale: of the merged difference.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Yadav et al. (2023), TIES-Merging: resolving interference when merging models,
        arXiv 2306.01708.

    Example:
        >>> base = {"w": torch.zeros(4)}
        >>> one = {"w": torch.tensor([4.0, -2.0, 0.1, 1.0])}
        >>> two = {"w": torch.tensor([2.0, 3.0, 0.2, 0.1])}
        >>> ties(base, [one, two], density=0.5)
        {'w': tensor([3., 3., 0., 0.])}
    """
    options = {"density": density, "scale": scale}
    return run(base, models, ties_rule, options, shared, dtype)


@cites("dare")
def dare(
    base: StateDict,
    models: Models,
    *,
    seed: int,
    drop: float = 0.9,
    scale: float = 0.3,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Drop differences at random, rescale the rest, and add their sum to the base.

    .. math::
        \theta = \theta_0 + \lambda \sum_k \frac{m_k \odot (\theta_k - \theta_0)}{1-p},
        \qquad m_{kj} \sim \operatorname{Bernoulli}(1-p).

    What is dropped depends on the seed, the task's name and the tensor's name alone.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        seed: of the draws.
        drop: :math:`p`, in [0, 1).
        scale: :math:`\lambda`.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Yu et al. (2024), Language models are super Mario: absorbing abilities from
        homologous models as a free lunch, arXiv 2311.03099.

    Example:
        >>> base, model = {"w": torch.zeros(4)}, {"w": torch.ones(4)}
        >>> dare(base, [model], seed=1, drop=0.5, scale=1.0)["w"].unique()
        tensor([0., 2.])
    """
    options = {"seed": seed, "drop": drop, "scale": scale}
    return run(base, models, dare_rule, options, shared, dtype)


def ties_rule(reader: Reader, density: float = 0.2, scale: float = 1.0) -> Rule:
    """Rule of :func:`ties`."""
    good = isinstance(density, float | int) and 0 < density <= 1
    check(good, "density", density, "in (0, 1]")
    check_number("scale", scale, -float("inf"))
    least = _smallest_kept(reader, density) if density < 1 else None

    @elementwise
    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        steps = stack.sub_(base)
        if least is not None:
            bound = least.to(steps).reshape(-1, *[1] * base.ndim)
            steps = torch.where(steps.abs() >= bound, steps, 0.0)
        elected = steps.sum(0).sign()
        steps = torch.where(steps.sign() == elected, steps, 0.0)
        number = (steps != 0).sum(0).clamp(min=1)
        return shifted(base, steps.sum(0) / number, scale)

    return rule


def dare_rule(reader: Reader, seed: int, drop: float = 0.9, scale: float = 0.3) -> Rule:
    """Rule of :func:`dare`."""
    check_count("seed", seed, 0)
    check_number("drop", drop, 0.0, 1.0)
    check_number("scale", scale, -float("inf"))

    generators: dict[str, list[torch.Generator]] = {}

    @elementwise
    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        steps = stack.sub_(base)
        if name not in generators:  # pieces of a tensor draw one after the other
            generators.clear()
            generators[name] = [_generator(seed, task, name) for task in reader.tasks]
        for generator, step in zip(generators[name], steps, strict=True):
            draws = torch.rand(base.shape, generator=generator)
            step.mul_((draws >= drop).to(step)).div_(1 - drop)
        return shifted(base, steps.sum(0), scale)

    return rule


def _generator(seed: int, *names: str) -> torch.Generator:
    """Generator of random numbers of its own for each task and tensor."""
    # drawn on the processor, so that every device drops the same
    text = "\n".join((str(seed), *map(repr, names))).encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number >> 1)


def _smallest_kept(reader: Reader, density: float) -> Tensor:
    """Find how large the last difference of each task is that is kept, `(tasks,)`."""
    # Positive floating numbers are in the order of their bits. So the number of a rank
    # is found digit by digit from counts, without holding or sorting them all.
    size = sum(reader.shape(name).numel() for name in reader.names)
    rank = torch.full((len(reader.tasks),), math.ceil(density * size))
    found = torch.zeros(len(reader.tasks), dtype=torch.long)
    for low, width in _DIGITS:
        counts = torch.zeros(len(reader.tasks), 1 << width, dtype=torch.long)
        for name, piece in [(n, p) for n in reader.names for p in reader.pieces(n)]:
            _, steps = reader.differences(name, piece)
            for row, count, prefix in zip(steps, counts, found, strict=True):
                # one row at a time: the bits need a copy in double precision
                bits = row.abs().double().flatten().view(torch.long).cpu()
                bits = bits[(bits >> (low + width)) == prefix]
                digits = (bits >> low) & ((1 << width) - 1)
                count += digits.bincount(minlength=1 << width)
        # digits from above, until the rank lies in one
        above = counts.flip(-1).cumsum(-1)
        place = (above < rank[:, None]).sum(-1, keepdim=True)
        passed = above.gather(1, place) - counts.flip(-1).gather(1, place)
        rank = rank - passed[:, 0]
        found = (found << width) + (1 << width) - 1 - place[:, 0]
    return found.view(torch.double)
