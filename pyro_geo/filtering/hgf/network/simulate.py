"""Draw hidden states and inputs of a network by its generative model."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import NetworkParameters

__all__ = ["simulate_inputs"]


def simulate_inputs(
    graph: Graph,
    parameters: NetworkParameters,
    time_step: Tensor,
    shape: Size,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw series of hidden states and of what is observed of them.

    Args:
        graph: of the network.
        parameters: its numbers.
        time_step: time since the step before, `(*batch, T)`.
        shape: of the series, to which the batch of the parameters broadcasts.
        generator: of random numbers; None for torch's own.

    Returns:
        Inputs `(*shape, T, inputs)` and states `(*shape, T, states)`.
    """
    mu0 = parameters.mu0
    steps = time_step.expand(*shape, time_step.shape[-1]).unbind(-1)

    def normal(count: int) -> Tensor:
        return torch.randn(
            *shape, count, generator=generator, dtype=mu0.dtype, device=mu0.device
        )

    numbers = {name: x.unbind(-1) for name, x in parameters._asdict().items()}
    x = list((mu0 + normal(len(graph.names)) / parameters.pi0.sqrt()).unbind(-1))
    states, inputs = [], []
    for t in steps:
        x = _next_states(graph, numbers, x, t, normal(len(graph.names)).unbind(-1))
        states.append(torch.stack(x, -1))
        now = []
        for k, (seen, z) in enumerate(
            zip(graph.inputs, normal(len(graph.inputs)).unbind(-1), strict=True)
        ):
            state = x[graph.names.index(seen.state)]
            if seen.kind == "binary":  # the normal's quantile is uniform
                chance = torch.special.ndtr(z)
                now.append((chance < torch.sigmoid(state)).to(state.dtype))
            else:
                now.append(state + z / numbers["input_precision"][k].sqrt())
        inputs.append(torch.stack(now, -1))
    return torch.stack(inputs, -2), torch.stack(states, -2)


def _next_states(
    graph: Graph,
    numbers: dict[str, tuple[Tensor, ...]],
    x: list[Tensor],
    t: Tensor,
    z: tuple[Tensor, ...],
) -> list[Tensor]:
    """Move all states by one step, parents before their children."""
    new = list(x)
    for a in graph.downward:
        drift, log_variance = numbers["drift"][a], numbers["omega"][a] + torch.log(t)
        for edge, b in graph.parents(a, "value"):
            g = graph.value_edges[edge].function
            drift = drift + numbers["value_coupling"][edge] * (
                new[b] if g is None else g(new[b])
            )
        for edge, c in graph.parents(a, "volatility"):
            log_variance = log_variance + numbers["kappa"][edge] * new[c]
        mean = numbers["autoconnection"][a] * x[a] + t * drift
        # states stay finite where the highest ones wander off, as in simulate_hgf
        cut = log_variance.clamp(max=600.0 if mean.dtype == torch.float64 else 60.0)
        new[a] = mean + torch.exp(0.5 * cut) * z[a]
    return new
