"""Scales of layers by diagnostics of the weights alone: LARV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_geo.checks import check, check_choice, check_number
from pyro_geo.citations import cites
from pyro_geo.summaries.merge._reader import Reader, Rule, elementwise, run
from pyro_geo.summaries.merge._tasks import Models, StateDict

__all__ = ["larv"]

_OVER = (
    "average",
    "task_arithmetic",
    "ties",
    "dare",
    "tsv_merge",
    "iso_c",
    "iso_cts",
    "wudi",
)


@cites("larv")
def larv(
    base: StateDict,
    models: Models,
    *,
    over: str = "iso_c",
    options: Mapping[str, Any] | None = None,
    tiers: Sequence[float] | None = None,
    amplitude: float = 0.5,
    steepness: float = 3.0,
    rank_power: float = 1.0,
    depth_power: float = 0.5,
    layer_of: Callable[[str], str] | None = None,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    r"""Scale each layer's differences before another method merges them.

    For each task and layer :math:`\ell` of :math:`L`, averaged over its matrices
    :math:`A` with differences :math:`D`,

    .. math::
        e_\ell = \frac{r(A)}{r(D)}, \qquad
        c_\ell = \frac{\|A^\top D - D^\top A\|_F + \|A D^\top - D A^\top\|_F}
                      {2 \|A\|_F \|D\|_F}, \qquad
        s_\ell = \frac{e_\ell^\eta \, (\ell / L)^\rho}
                      {1 + \operatorname{softplus}(z_\ell)},

    with :math:`r` the exponential of the entropy of the squared singular values, and
    :math:`z` the :math:`c` standardised over layers. The scale of a layer is :math:`1 +
    a \tanh(\gamma (s_\ell - 1))`, or one of several tiers by the rank of
    :math:`s_\ell`.

    The paper itself was not read: these formulas are from a review of it and from
    another implementation. The paper prefers tiers, with values that these sources do
    not give, so `tiers` has no default.

    Args:
        base: the network that all copies started from.
        models: task to its tensors, or a sequence.
        over: the method that merges: one that needs no data.
        options: of that method.
        tiers: scales from the lowest to the highest scores, for equal shares of the
            layers; None for the smooth scale.
        amplitude: :math:`a`.
        steepness: :math:`\gamma`.
        rank_power: :math:`\eta`.
        depth_power: :math:`\rho`.
        layer_of: layer of the tensor of a name. By default the name up to its first
            number, or up to its last dot. Layers count in the order of the base.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.

    Returns:
        The merged state dict.

    References:
        Wang et al. (2026), LARV: data-free layer-wise adaptive rescaling veneer for
        model merging, arXiv 2602.09413.

    Example:
        >>> base = {"0.weight": torch.eye(2), "1.weight": torch.eye(2)}
        >>> model = {"0.weight": 2 * torch.eye(2), "1.weight": 3 * torch.eye(2)}
        >>> larv(base, [model], over="average", tiers=[0.5, 1.0])["0.weight"]
        tensor([[1.5000, 0.0000],
                [0.0000, 1.5000]])
    """
    known: dict[str, Any] = {
        "over": over,
        "options": options,
        "tiers": tiers,
        "amplitude": amplitude,
        "steepness": steepness,
        "rank_power": rank_power,
        "depth_power": depth_power,
        "layer_of": layer_of,
    }
    return run(base, models, larv_rule, known, shared, dtype)


def larv_rule(
    reader: Reader,
    over: str = "iso_c",
    options: Mapping[str, Any] | None = None,
    tiers: Sequence[float] | None = None,
    amplitude: float = 0.5,
    steepness: float = 3.0,
    rank_power: float = 1.0,
    depth_power: float = 0.5,
    layer_of: Callable[[str], str] | None = None,
) -> Rule:
    """Rule of :func:`larv`."""
    from pyro_geo.summaries.merge._registry import rule_of

    check_choice("over", over, _OVER)
    check_number("amplitude", amplitude)
    check_number("steepness", steepness)
    check_number("rank_power", rank_power)
    check_number("depth_power", depth_power)
    check(tiers is None or len(tiers) > 0, "tiers", tiers, "None or some scales")
    make = rule_of(over, chosen := dict(options or {}))
    home = layer_of or _layer_of
    layers, scores = _scores(reader, home, rank_power, depth_power)
    if tiers is None:
        scales = 1 + amplitude * torch.tanh(steepness * (scores - 1))
    else:
        place = scores.argsort(0).argsort(0) * len(tiers) // max(len(layers), 1)
        scales = torch.tensor(list(tiers), dtype=scores.dtype)[place]
    rows = dict(zip(layers, scales, strict=True))
    scaled = _Scaled(reader, lambda name: rows.get(home(name)))
    inner = make(scaled, **chosen)

    def rule(name: str, base: Tensor, stack: Tensor) -> Tensor:
        return inner(name, base, scaled.scale(name, base, stack))

    return elementwise(rule) if hasattr(inner, "elementwise") else rule


class _Scaled(Reader):
    """Networks whose differences are scaled as they are read."""

    def __init__(self, reader: Reader, scales: Callable[[str], Tensor | None]) -> None:
        self.__dict__.update(vars(reader))
        self._scales = scales

    def read(self, name: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        base, stack = super().read(name, rows)
        return base, self.scale(name, base, stack)

    def scale(self, name: str, base: Tensor, stack: Tensor) -> Tensor:
        scales = self._scales(name)
        if scales is None:
            return stack
        factors = scales.to(stack).reshape(-1, *[1] * base.ndim)
        return stack.sub_(base).mul_(factors).add_(base)


def _scores(
    reader: Reader, home: Callable[[str], str], rank_power: float, depth_power: float
) -> tuple[list[str], Tensor]:
    """Layers with matrices, and the score of each in each task, `(layers, tasks)`."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in reader.names:
        if len(reader.shape(name)) >= 2 and reader.shape(name).numel() > 0:
            base, steps = reader.differences(name)
            pair = _diagnostics(base.flatten(1), steps.flatten(2))
            found.setdefault(home(name), []).append(pair)
    if not found:
        return [], torch.zeros(0, len(reader.tasks), dtype=torch.float64)
    means = [torch.stack([torch.stack(p) for p in x]).mean(0) for x in found.values()]
    contrast, conflict = torch.stack(means, 1).double().cpu()  # (layers, tasks) each
    spread = conflict.std(0, correction=0)
    spread = torch.where(spread > 1e-12, spread, 1.0)
    standard = (conflict - conflict.mean(0)) / spread
    depth = torch.arange(1, len(found) + 1, dtype=torch.float64)[:, None] / len(found)
    scores = contrast**rank_power * depth**depth_power / (1 + softplus(standard))
    return list(found), scores


def _diagnostics(base: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast of ranks and conflict of one matrix in each task."""
    size = base.norm() * steps.flatten(1).norm(dim=1)
    moved = size > 0
    contrast = _rank(base) / _rank(steps)
    crossed = base.mT @ steps, base @ steps.mT
    norms = [(c - c.mT).flatten(1).norm(dim=1) for c in crossed]
    conflict = (norms[0] + norms[1]) / (2 * torch.where(moved, size, 1.0))
    return torch.where(moved, contrast, 0.0), torch.where(moved, conflict, 0.0)


def _rank(x: Tensor) -> Tensor:
    """Exponential of the entropy of the shares of squared singular values."""
    energy = torch.linalg.svdvals(x).square()
    total = energy.sum(-1, keepdim=True)
    share = energy / torch.where(total > 0, total, 1.0)
    return torch.special.entr(share).sum(-1).exp()


def _layer_of(name: str) -> str:
    """Name of a tensor up to its first number, or else up to its last dot."""
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name
