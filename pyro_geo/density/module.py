"""Densities from a potential function and from a module with its loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.torch import initialise_layer
from pyro_geo.density._modes import DensityMode, default_dtype
from pyro_geo.density.layout import Layout
from pyro_geo.density.model import evaluation_mode
from pyro_geo.density.protocol import Data, Terms
from pyro_geo.errors import ModelError, ShapeError, UnsupportedModelError
from pyro_geo.ops.arrays import same_values
from pyro_geo.ops.random import private_randomness

__all__ = ["ModuleDensity", "PotentialDensity"]


class _OnTensors:
    """A density whose arguments are its data tensors and whose layout is fixed."""

    own_memory = False

    def _mode(self, q: Tensor) -> DensityMode:
        return DensityMode(q if self.own_memory else None)

    def rebind(self, *tensors: Tensor) -> Data:
        """Return the tensors themselves."""
        return tensors

    def check_data(self, data: Data) -> None:
        """Accept all tensors: the layout does not depend on them."""


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
        # a function may run a Pyro model itself, as those of `initialize_model` do
        with evaluation_mode(q.dtype, q if self.own_memory else None):
            potential = self.fn(self.layout.unflatten(q) if self.by_site else q, *data)
        if not isinstance(potential, Tensor) or potential.numel() != 1:
            raise ShapeError(
                "a potential is one number",
                where="the potential function",
                found=f"shape {tuple(potential.shape)}"
                if isinstance(potential, Tensor)
                else type(potential).__name__,
                expected="a tensor of shape ()",
                todo="Return minus the log-density, summed over all sites.",
            )
        return Terms(q.new_zeros(()), -potential.reshape(()).to(q.dtype))

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Return nothing: a potential has no data points."""
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
                "module has no parameters",
                where="argument module",
                found=type(module).__name__,
                expected="a module with at least one parameter",
                todo="Pass the network itself, not a function of it.",
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
        module = copy.deepcopy(self.module)  # the layers draw in place
        rows = []
        for _ in range(count):
            with private_randomness(int(torch.randint(2**31, (), generator=generator))):
                for layer in module.modules():
                    initialise_layer(layer)
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
        # a loss of NaN is no sign of randomness
        if not same_values(first, second):
            raise UnsupportedModelError(
                "the module's loss is not a function of its parameters",
                where="argument module",
                found=f"{float(first)} and {float(second)} at one position",
                expected="the same value in every run",
                todo="Call eval() on the module, which switches dropout off.",
            )

    def _loss(self, q: Tensor, data: Data) -> Tensor:
        with default_dtype(q.dtype), self._mode(q):
            outputs = self.outputs(q, data)
            losses = self.loss(outputs, data[-1])
            most = max(outputs.numel(), data[-1].numel(), 1)
            if losses.numel() > most:
                # outputs (n, 1) less targets (n,) are n squared losses of n data
                raise ShapeError(
                    "broadcasting makes more losses than there are data",
                    where="argument loss",
                    found=f"losses of {tuple(losses.shape)} from outputs of "
                    f"{tuple(outputs.shape)} and targets of {tuple(data[-1].shape)}",
                    expected="one value for each datum, or their sum",
                    todo="Compare outputs.squeeze(-1) with the targets, say.",
                )
            return losses.to(q.dtype)

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Normal log-prior (zero for precision 0) and minus the summed loss."""
        log_prior = q.new_zeros(())
        if self.prior_precision > 0:
            # log N(q | 0, 1 / precision) for each coordinate
            constant = 0.5 * math.log(self.prior_precision / (2 * math.pi))
            log_prior = len(q) * constant - 0.5 * self.prior_precision * (q * q).sum()
        return Terms(log_prior, -self._loss(q, data).sum())

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Minus the loss of each datum, where the loss is not already a sum."""
        losses = self._loss(q, data)
        return {"loss": -losses} if losses.dim() else {}
