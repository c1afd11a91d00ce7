"""What an audit looks at: states of learners, and data to probe them with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_geo.geometry.kronecker import Block
from pyro_geo.unlearning._finding import base_groups, buffers_of
from pyro_geo.unlearning.treatments import policies_of

__all__ = ["Probes", "State"]


@dataclass(frozen=True)
class State:
    """A learner at one time: parameters, memory and what is kept beside it.

    Attributes:
        parameters: one after another, in the order of the optimiser, `(dim,)`.
        memory: the curvature that the optimiser has gathered.
        buffers: other tensors of the optimiser by name, such as averages of gradients
            and cached roots.
        policies: treatments that it has had.
        used: what steps divide by where it is kept apart from the memory, such as the
            cached roots of Shampoo and the second moments of SOAP; anything that has
            `dim` and `matvec`. The memory itself if None.
    """

    parameters: Tensor
    memory: Block
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    used: Any = None

    @classmethod
    def of(cls, optimizer: Any, names: Iterable[str] | None = None) -> State:
        """Copy the state of an optimiser and of its parameters.

        Args:
            optimizer: any that :func:`~pyro_geo.unlearning.memory.memory_of` reads.
            names: of the parameters, in their order.

        Returns:
            The state, in double precision.
        """
        found = buffers_of(optimizer, names)
        params = [p for group in base_groups(optimizer) for p in group["params"]]
        flat = torch.cat([p.detach().double().reshape(-1) for p in params])
        kept = {
            label: tensor.detach().double().clone()
            for one in found
            for label, tensor in one.tensors()
            if tensor.is_floating_point() and tensor.ndim > 0
        }
        memory = Block({one.name: one.matrix() for one in found})
        used = Block({one.name: one.used() for one in found})
        return cls(flat, memory, kept, policies_of(optimizer), used)


@dataclass(frozen=True)
class Probes:
    """Data to probe states with, and what a model makes of them.

    Attributes:
        forget: data that were deleted; whatever the functions take.
        control: data that both learners treat alike, of the same kind as the others.
        retained: data that stay.
        gradients: `(parameters, data)` to the gradient of each loss, `(n, dim)`.
        losses: `(parameters, data)` to the loss of each datum, `(n,)`.
        probabilities: `(parameters, data)` to predicted probabilities, `(n, classes)`;
            None for models without classes.
        test: further data for predictions.
        reference: parameters at which gradients of scores are taken; those of the
            counterfactual if None.
    """

    forget: Any
    control: Any
    retained: Any
    gradients: Callable[[Tensor, Any], Tensor]
    losses: Callable[[Tensor, Any], Tensor]
    probabilities: Callable[[Tensor, Any], Tensor] | None = None
    test: Any = None
    reference: Tensor | None = None

    @classmethod
    def of_module(
        cls,
        module: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        forget: tuple[Tensor, Tensor],
        control: tuple[Tensor, Tensor],
        retained: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor] | None = None,
        classes: bool = True,
    ) -> Probes:
        """Probe a network.

        Args:
            module: whose parameters come in the order of the optimiser. It is computed
                in double precision; its own parameters are left alone.
            loss: of a batch of outputs and answers, their mean or their sum.
            forget: inputs and answers.
            control: inputs and answers.
            retained: inputs and answers.
            test: inputs and answers.
            classes: whether the outputs are logits.

        Returns:
            The probes.

        Example:
            >>> net = torch.nn.Linear(1, 2)
            >>> data = (torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
            >>> kinds = {"forget": data, "control": data, "retained": data}
            >>> loss = torch.nn.functional.cross_entropy
            >>> probes = Probes.of_module(net, loss, **kinds)
            >>> probes.gradients(torch.zeros(4), data)[0].tolist()
            [-0.5, 0.5, -0.5, 0.5]
        """
        names = {name: p.shape for name, p in module.named_parameters()}
        fixed = {
            name: b.detach().double() if b.is_floating_point() else b.detach()
            for name, b in module.named_buffers()
        }

        def outputs(flat: Tensor, x: Tensor) -> Tensor:
            sizes = [shape.numel() for shape in names.values()]
            parts = zip(names.items(), flat.split(sizes), strict=True)
            params = {name: part.reshape(shape) for (name, shape), part in parts}
            return torch.func.functional_call(module, {**params, **fixed}, (x,))

        def one(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return loss(outputs(flat, x[None]), y[None])

        def of_all(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def mapped(flat: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
                x, y = (_double(part) for part in data)
                over_rows = torch.func.vmap(function, (None, 0, 0))
                return over_rows(flat.detach().double(), x, y).detach()

            return mapped

        def probabilities(flat: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
            with torch.no_grad():
                return outputs(flat.double(), _double(data[0])).softmax(-1)

        return cls(
            forget,
            control,
            retained,
            of_all(torch.func.grad(one)),
            of_all(one),
            probabilities if classes else None,
            test,
        )


def _double(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part
