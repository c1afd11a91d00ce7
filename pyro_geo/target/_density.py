"""What a target needs of a density, and the two simple kinds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from pyro.util import get_rng_state, set_rng_seed, set_rng_state
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.errors import ModelError, UnsupportedModelError, explain
from pyro_geo.target._layout import Layout
from pyro_geo.target._modes import DensityMode, default_dtype

__all__ = ["Density", "ModuleDensity", "Observation", "PotentialDensity", "Terms"]

Data = tuple[Tensor, ...]


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Draw from a seed of our own and leave every global random state as it was."""
    state = get_rng_state()
    set_rng_seed(seed)
    try:
        yield
    finally:
        set_rng_state(state)


class Terms(NamedTuple):
    """Log-density of one position, in nats, split in two."""

    log_prior: Tensor
    log_likelihood: Tensor


class Observation(NamedTuple):
    """One observed site at one position."""

    fn: Any
    value: Tensor
    scale: float | Tensor
    mask: bool | Tensor | None


class Density(Protocol):
    """A log-density of one flat position whose tensors of data come as arguments."""

    layout: Layout

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior (with log-Jacobians) and log-likelihood of `q`, `(dim,)`."""
        ...

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum by observed site, unscaled."""
        ...

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Tensors among new arguments, given as they were at first."""
        ...

    def check_data(self, data: Data) -> None:
        """Refuse tensors of the right shapes that would change the layout."""
        ...


class _OnTensors:
    """A density whose arguments are its tensors, and whose layout is fixed."""

    def rebind(self, *tensors: Tensor) -> Data:
        """Return the tensors themselves."""
        return tensors

    def check_data(self, data: Data) -> None:
        """Accept all."""


class PotentialDensity(_OnTensors):
    """A density from a potential function, all of it counted as likelihood."""

    def __init__(
        self, fn: Callable[..., Tensor], layout: Layout, by_site: bool
    ) -> None:
        self.fn = fn
        self.layout = layout
        self.by_site = by_site

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Minus the potential as log-likelihood, beside a log-prior of zero."""
        with default_dtype(q.dtype), DensityMode():
            potential = self.fn(self.layout.unflatten(q) if self.by_site else q, *data)
        return Terms(q.new_zeros(()), -potential.reshape(()))

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Nothing: a potential has no data points."""
        return {}


class ModuleDensity(_OnTensors):
    """A density over the parameters of a module: minus its loss, and a normal prior."""

    def __init__(
        self,
        module: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        prior_precision: float,
    ) -> None:
        self.module = module
        self.loss = loss
        self.prior_precision = prior_precision
        shapes = {name: p.shape for name, p in module.named_parameters()}
        if not shapes:
            raise ModelError(
                explain(
                    "module has no parameters",
                    where="argument module",
                    found=type(module).__name__,
                    expected="a module with at least one parameter",
                    todo="Pass the network itself, not a function of it.",
                )
            )
        self.layout = Layout.from_supports(
            {name: (shape, constraints.real) for name, shape in shapes.items()}
        )

    def outputs(self, q: Tensor, data: Data) -> Tensor:
        """Outputs of the module at `q` for the inputs in `data`."""
        *inputs, _ = data
        parameters = self.layout.unflatten(q)
        return torch.func.functional_call(self.module, parameters, tuple(inputs))

    def fresh_starts(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw starts as the module's layers initialise themselves, `(count, dim)`."""
        module = copy.deepcopy(self.module)
        rows = []
        for _ in range(count):
            with private_randomness(int(torch.randint(2**31, (), generator=generator))):
                for layer in module.modules():
                    for name in ("reset_parameters", "_reset_parameters"):
                        reset = getattr(layer, name, None)
                        if callable(reset):
                            reset()
            values = {n: p.detach().clone() for n, p in module.named_parameters()}
            rows.append(self.layout.flatten(values))
        return torch.stack(rows)

    def check_deterministic(self, data: Data) -> None:
        """Refuse a module that draws random numbers, or counts its calls.

        Raises:
            UnsupportedModelError: two losses at one position.
        """
        parameters = {n: p.detach() for n, p in self.module.named_parameters()}
        q = self.layout.flatten(parameters)
        with torch.no_grad(), private_randomness(0):
            first, second = self._loss(q, data).sum(), self._loss(q, data).sum()
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise UnsupportedModelError(
                explain(
                    "the module's loss is not a function of its parameters",
                    where="argument module",
                    found=f"{float(first)} and {float(second)} at one position",
                    expected="the same value in every run",
                    todo="Call eval() on the module, which switches dropout off.",
                )
            )

    def _loss(self, q: Tensor, data: Data) -> Tensor:
        with default_dtype(q.dtype), DensityMode():
            return self.loss(self.outputs(q, data), data[-1])

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Normal log-prior (zero for precision 0) and minus the summed loss."""
        log_prior = q.new_zeros(())
        if self.prior_precision > 0:
            constant = 0.5 * math.log(self.prior_precision / (2 * math.pi))
            log_prior = len(q) * constant - 0.5 * self.prior_precision * (q * q).sum()
        return Terms(log_prior, -self._loss(q, data).sum())

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Minus the loss of each datum, where the loss is not already a sum."""
        losses = self._loss(q, data)
        return {"loss": -losses} if losses.dim() else {}


def cast(leaves: Sequence[Any], dtype: torch.dtype) -> Data:
    """Copy nothing but what has another floating type than `dtype`."""
    return tuple(
        leaf.detach().to(dtype) if leaf.is_floating_point() else leaf.detach()
        for leaf in leaves
    )
