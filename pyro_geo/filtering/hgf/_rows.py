"""Values of trajectories by name, as rows of subjects: of chains and of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import UnsupportedError
from pyro_geo.filtering.hgf.features import learning_rates, weighted_errors
from pyro_geo.filtering.hgf.trajectory import HGFTrajectory

__all__ = ["Rows", "rows_of"]


class Rows(NamedTuple):
    """Values with a leading axis of draws, `(draws, subjects, T, ...)`.

    Attributes:
        values: `mu` and `pi` with a last axis of levels, and others by name.
        inputs: NaN where none is observed, `(subjects, T, inputs)`.
        levels: names of the levels; numbers of a chain.
        channels: names of the inputs.
    """

    values: dict[str, Tensor]
    inputs: Tensor
    levels: list[object]
    channels: list[object]


def rows_of(trajectory: Any, u: Tensor | None) -> Rows:
    """Arrange a trajectory whose batch is draws, and then subjects.

    Args:
        trajectory: of a chain of levels, or of a network, with beliefs by state.
        u: inputs without draws; of a chain, from the trajectory if None.

    Returns:
        The rows.
    """
    if isinstance(trajectory.mu, Mapping):
        return _network(trajectory, u)
    return _chain(trajectory, u)


def _chain(trajectory: HGFTrajectory, u: Tensor | None) -> Rows:
    kind = _kind(trajectory)
    chains: Literal["continuous", "binary"]
    chains = "continuous" if kind == "continuous" else "binary"
    classes = trajectory.mu.shape[-3] if kind == "categorical" else 0
    batch = trajectory.surprise.shape[:-1]

    def rows(value: Tensor, levels: bool = True) -> Tensor:
        if levels and classes:  # levels of all classes are levels of one state
            value = value.movedim(-3, -2).flatten(-2)
        rest = value.shape[value.dim() - 1 - levels :]
        return value.expand(*batch, *rest).reshape(batch[0], -1, *rest)

    first = trajectory.pi[..., 0], trajectory.pihat[..., 0]
    seen, pred, error = first[0] > first[1], trajectory.pred, trajectory.pe_value
    if classes:
        seen = seen[..., 0, :]
        inputs = (error > 0).to(pred.dtype).argmax(-2)
        pred = pred.argmax(-1).to(pred.dtype)
    else:
        inputs = pred + error
        inputs = inputs.round() if kind == "binary" else inputs
    y = torch.where(seen, inputs, torch.nan)[0] if u is None else u
    y = y.to(pred.dtype).expand(*batch[1:], y.shape[-1])
    count = trajectory.mu.shape[-1]
    names: list[object] = list(range(1, count + 1))
    if classes:
        names = [f"class {k}, level {j}" for k in range(classes) for j in names]
    values = {
        "mu": rows(trajectory.mu),
        "pi": rows(trajectory.pi),
        "muhat": rows(trajectory.muhat),
        "pihat": rows(trajectory.pihat),
        "prediction": rows(pred, False),
        "surprise": rows(trajectory.surprise, False),
        "learning_rate": rows(learning_rates(trajectory, chains)),
        "weighted_error": rows(weighted_errors(trajectory)),
    }
    return Rows(values, y.reshape(-1, y.shape[-1], 1), names, ["input"])


def _network(trajectory: Any, u: Tensor | None) -> Rows:
    if u is None:
        raise UnsupportedError(
            "the inputs of a network cannot be told from its beliefs",
            where="HGFSeries.from_trajectory, argument u",
            found=None,
            expected="the inputs",
            todo="Pass the inputs that the network has filtered.",
        )
    batch = trajectory.surprise.shape[:-1]

    def rows(values: Mapping[str, Tensor]) -> Tensor:
        found = torch.stack(torch.broadcast_tensors(*values.values()), -1)
        found = found.expand(*batch, *found.shape[-2:])
        return found.reshape(batch[0], -1, *found.shape[-2:])

    channels = list(trajectory.pred)
    y = (u if len(channels) > 1 else u.unsqueeze(-1)).to(trajectory.surprise.dtype)
    y = y.expand(*batch[1:], *y.shape[-2:])
    prediction = rows(trajectory.pred)
    values = {
        "mu": rows(trajectory.mu),
        "pi": rows(trajectory.pi),
        "muhat": rows(trajectory.muhat),
        "pihat": rows(trajectory.pihat),
        "prediction": prediction if len(channels) > 1 else prediction[..., 0],
        "surprise": rows({"": trajectory.surprise})[..., 0],
    }
    inputs = y.reshape(-1, *y.shape[-2:])
    return Rows(values, inputs, list(trajectory.mu), list(channels))


def _kind(trajectory: HGFTrajectory) -> str:
    """Tell the kind of input: the prediction of a continuous one is the mean itself."""
    if trajectory.pe_value.dim() > trajectory.surprise.dim():
        return "categorical"
    pred, mean = trajectory.pred.nan_to_num(), trajectory.muhat[..., 0].nan_to_num()
    same = torch.equal(*torch.broadcast_tensors(pred, mean))
    return "continuous" if same else "binary"
