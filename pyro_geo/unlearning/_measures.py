"""Numbers that an audit compares two states by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.distances import (
    airm,
    bures_wasserstein,
    kl,
    log_euclidean,
    spectrum_distance,
    stein,
)
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite
from pyro_geo.geometry.spectra import effective_rank, eigenvalues, floored
from pyro_geo.unlearning.membership import auc, forget_energy, rayleigh
from pyro_geo.unlearning.probes import Probes, State

__all__ = [
    "Axis",
    "Common",
    "Level",
    "Measure",
    "Prepared",
    "fidelity",
    "erasure",
    "prepare",
]

Axis = Literal["fidelity", "erasure"]
"""How close a state is to a reference, or what it still knows of the forget set."""

Level = Literal[0, 1, 2]
"""Predictions; parameters and gradients; memories."""

_OTHER_FLOORS = (1e-2, 1e-4)


class Measure(NamedTuple):
    """One number, zero where two states agree.

    Attributes:
        axis: fidelity or erasure.
        level: of what it compares.
        name: of the number.
        value: non-negative.
        counts: whether a verdict depends on it.
    """

    axis: Axis
    level: Level
    name: str
    value: float
    counts: bool = True


class Common(NamedTuple):
    """One row for each datum of the forget set and of its control."""

    forget: Tensor
    control: Tensor


class Prepared(NamedTuple):
    """A state with what is computed from it alone.

    Attributes:
        state: the state.
        scores: of the gradients of :class:`Common`, by its memory.
        raised: its memory above a floor.
        energy: forget energy of its memory.
        used_energy: of what its steps divide by.
        state_auc: of an attack on the memory.
        loss_auc: of an attack on the losses.
        slope: mean gradient of the retained data.
        predictions: by kind of data.
    """

    state: State
    scores: Common
    raised: PositiveDefinite
    energy: float
    used_energy: float
    state_auc: float
    loss_auc: float
    slope: Tensor
    predictions: dict[str, Tensor]


def prepare(state: State, probes: Probes, common: Common, rel: float) -> Prepared:
    """Compute what one state gives."""
    theta = state.parameters
    scores = Common(*(rayleigh(state.memory, g) for g in common))
    energy = float(scores.forget.mean() - scores.control.mean())
    used_energy = energy if state.used is None else forget_energy(state.used, *common)
    losses = [probes.losses(theta, data) for data in (probes.forget, probes.control)]
    kinds = {"forget": probes.forget, "retained": probes.retained, "test": probes.test}
    predictions = {}
    if probes.probabilities is not None:
        predictions = {
            name: probes.probabilities(theta, data).double()
            for name, data in kinds.items()
            if data is not None
        }
    return Prepared(
        state,
        scores,
        floored(state.memory, rel),
        energy,
        used_energy,
        auc(scores.forget, scores.control).value,
        # members have small losses
        auc(-losses[0], -losses[1]).value,
        probes.gradients(theta, probes.retained).double().mean(0),
        predictions,
    )


def fidelity(one: Prepared, two: Prepared, common: Common) -> Iterator[Measure]:
    """How far two states are apart."""
    for name, p in one.predictions.items():
        q = two.predictions[name]
        yield Measure("fidelity", 0, f"js_{name}", _jensen_shannon(p, q))
        apart = (p.argmax(-1) != q.argmax(-1)).double().mean()
        yield Measure("fidelity", 0, f"disagreement_{name}", float(apart))
    gap = one.state.parameters - two.state.parameters
    yield Measure("fidelity", 1, "parameters", float(gap.norm()))
    turned = angle(one.slope, two.slope)
    yield Measure("fidelity", 1, "gradient_angle", float(turned))
    a, b = one.raised, two.raised
    for distance in (airm, stein, kl, bures_wasserstein, log_euclidean):
        # those that see the scale of the memory do not decide
        counts = distance is airm
        yield Measure("fidelity", 2, distance.__name__, distance(a, b), counts)
    yield Measure("fidelity", 2, "spectrum", _shapes(a, b))
    ranks = math.log(effective_rank(a) / effective_rank(b))
    yield Measure("fidelity", 2, "log_rank_ratio", abs(ranks))
    g = torch.cat(common)
    steps = a.solve(g), b.solve(g)
    mean = float(angle(*steps).mean())
    yield Measure("fidelity", 2, "update_angle", mean)
    size = (steps[0].norm(dim=1) / steps[1].norm(dim=1)).log().mean()
    yield Measure("fidelity", 2, "update_log_ratio", abs(float(size)), False)
    yield Measure("fidelity", 2, "buffers", _buffers(one.state, two.state), False)
    for rel in _OTHER_FLOORS:
        pair = [floored(p.state.memory, rel) for p in (one, two)]
        yield Measure("fidelity", 2, f"airm_floor_{rel:g}", airm(*pair), False)


def erasure(one: Prepared, two: Prepared) -> Iterator[Measure]:
    """How much more one state tells of the forget set than the other."""
    levels: tuple[tuple[Level, str, float, float], ...] = (
        (0, "loss_auc", one.loss_auc, two.loss_auc),
        (2, "forget_energy", one.energy, two.energy),
        (2, "used_energy", one.used_energy, two.used_energy),
        (2, "state_auc", one.state_auc, two.state_auc),
    )
    for level, name, x, y in levels:
        yield Measure("erasure", level, name, abs(x - y))


def angle(x: Tensor, y: Tensor) -> Tensor:
    """Angle between rows in degrees, exact for small ones; 0 where both are zero."""
    x, y = (
        v / v.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        for v in (x, y)
    )
    return torch.rad2deg(2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1)))


def _jensen_shannon(p: Tensor, q: Tensor) -> float:
    middle = 0.5 * (p + q)
    entropy = torch.special.entr
    gap = entropy(middle) - 0.5 * (entropy(p) + entropy(q))
    return float(gap.sum(-1).mean().clamp(min=0))


def _shapes(a: PositiveDefinite, b: PositiveDefinite) -> float:
    """Gap of the spectra, each over its own geometric mean: a rate undoes scales."""
    scales = [float(m.logdet()) / m.dim for m in (a, b)]
    return spectrum_distance(_scaled(a, scales[0]), _scaled(b, scales[1]))


def _scaled(matrix: PositiveDefinite, log_scale: float) -> Any:
    return Diagonal((eigenvalues(matrix) * math.exp(-log_scale)).sqrt())


def _buffers(one: State, two: State) -> float:
    """Largest gap of a buffer, as a share of the larger of its two norms."""
    worst = 0.0
    for name, x in one.buffers.items():
        y = two.buffers.get(name)
        if y is None or x.shape != y.shape:
            continue
        size = max(float(x.norm()), float(y.norm()))
        if size > 0:
            worst = max(worst, float((x - y).norm()) / size)
    return worst
