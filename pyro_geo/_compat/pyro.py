"""What we use of Pyro's private interfaces, seen with pyro-ppl 1.9.2.

Each name below has a test in `tests/compat/test_pyro.py` that fails when Pyro changes
it. `pyproject.toml` bounds pyro-ppl from above for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro.distributions.stable
import pyro.ops.special
import torch
from pyro.distributions import MaskedDistribution, stable_log_prob
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.subsample_messenger import _Subsample as Subsample
from torch import Tensor

__all__ = [
    "PLATE_PIECES",
    "SAFE_LOG",
    "ShapeEnumMessenger",
    "STABLE_LOG_PROB",
    "StableParts",
    "Subsample",
    "axis_names",
    "enumerated_axis",
    "is_marked_deterministic",
    "mask_of",
    "name_axes",
    "rename_module",
    "ring_of_logs",
    "symbol_of_axis",
    "symbols",
]

SAFE_LOG: tuple[Any, str] = (pyro.ops.special, "_SafeLog")
"""Module and name of Pyro's logarithm, an autograd function that `vmap` refuses."""


STABLE_LOG_PROB: tuple[Any, str] = (pyro.distributions.stable, "_stable_log_prob")
"""Module and name of the log-density of `Stable`, whose branches `vmap` refuses."""


class StableParts:
    """The pieces of that log-density, and where Pyro interpolates.

    Attributes:
        near_one: distance of the stability from one.
        near_zero: distance of the value from zero, before it is scaled.
        near_zero_density: the same as a part of the density at zero.
        integrated: log-density away from both, `(stability, skew, value)`.
        at_zero: log-density at zero, `(stability, skew)`.
    """

    near_one = stable_log_prob.alpha_near_one_tolerance
    near_zero = stable_log_prob.value_near_zero_tolerance_alpha
    near_zero_density = stable_log_prob.value_near_zero_tolerance_density
    integrated = staticmethod(stable_log_prob._unsafe_stable_log_prob)
    at_zero = staticmethod(stable_log_prob._unsafe_alpha_stable_log_prob_at_zero)


# -- messages of sites --------------------------------------------------------------


def is_marked_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a site comes from `pyro.deterministic`."""
    return bool(site["infer"].get("_deterministic"))


def enumerated_axis(site: Mapping[str, Any]) -> int | None:
    """Return the axis that holds the values of an enumerated site, else None."""
    return site["infer"].get("_enumerate_dim")


def symbol_of_axis(site: Mapping[str, Any]) -> dict[int, str]:
    """Map the axes of a site's log-probability to the symbols of the trace."""
    return site["infer"]["_dim_to_symbol"]


def mask_of(distribution: MaskedDistribution) -> bool | Tensor:
    """Return the mask of a masked distribution."""
    return distribution._mask


# -- enumeration --------------------------------------------------------------------


class ShapeEnumMessenger(EnumMessenger):
    """Pyro's enumeration handler, reading shapes where Pyro reads data.

    Pyro looks at `value.data`, which no tensor has under `vmap`.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        """Note the axes of a value, as Pyro's own method does."""
        value, infer = msg["value"], msg["infer"]
        if value is None or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        shape = value.shape[: value.dim() - msg["fn"].event_dim]
        dim_to_id = infer.setdefault("_dim_to_id", {})
        dim_to_id.update(self._param_dims.get(msg["name"], {}))
        self._value_dims[msg["name"]] = {
            dim: id_
            for dim, id_ in dim_to_id.items()
            if len(shape) >= -dim and shape[dim] > 1
        }


def symbols(trace: Trace) -> tuple[dict[str, int], dict[str, str]]:
    """Name the axes of a trace that ran under enumeration.

    Args:
        trace: its sites get a symbol for each axis.

    Returns:
        Symbol to axis, for plates and discrete sites; plate to symbol.
    """
    trace.symbolize_dims()
    return trace.symbol_to_dim, trace.plate_to_symbol


def axis_names(packed: Tensor) -> str:
    """Return the symbols of the axes of a packed tensor, one letter for each axis."""
    return getattr(packed, "_pyro_dims", "")


def name_axes(tensor: Tensor, names: str) -> Tensor:
    """Write the symbols of its axes on a packed tensor, and return it."""
    packed: Any = tensor
    packed._pyro_dims = names
    return packed


def ring_of_logs(backend: str) -> type[LogRing]:
    """Make Pyro's ring of logarithms with other sums.

    Args:
        backend: module with `einsum`, `tensordot` and `transpose` of logarithms.

    Returns:
        The class of the ring.
    """
    return type("_LogRing", (LogRing,), {"_backend": backend})


# -- modules ------------------------------------------------------------------------


def rename_module(module: PyroModule, name: str) -> None:
    """Give a Pyro module the name that its parameters have in the store.

    Args:
        module: the module, with all that is in it.
        name: new name.
    """
    module._pyro_set_supermodule(name, module._pyro_context)


# -- plates -------------------------------------------------------------------------

_NO_SHAPE = torch.Size()
_SAMPLE, _ITERATE = Subsample.sample, IndepMessenger.__iter__


def _indices(self: Any, sample_shape: torch.Size = _NO_SHAPE) -> Tensor:
    """Draw the indices of a plate; mark them if they are all of them in order."""
    indices: Any = _SAMPLE(self, sample_shape)
    if self.subsample_size is None or self.subsample_size >= self.size:
        indices._pyro_geo_complete = True
    return indices


def _steps(self: Any) -> Iterator[int | float]:
    """Iterate a sequential plate over numbers; Pyro reads them from a tensor.

    A number read from a tensor cannot be traced.

    Yields:
        The index of each step.
    """
    if self.dim is not None or not getattr(self._indices, "_pyro_geo_complete", False):
        yield from _ITERATE(self)
        return
    self._vectorized = False
    for index in range(self.size):
        self.next_context()
        with self:
            yield index


PLATE_PIECES: tuple[tuple[Any, str, Any], ...] = (
    (Subsample, "sample", _indices),
    (IndepMessenger, "__iter__", _steps),
)
"""Class, name of a method and its replacement, for sequential plates in a graph."""
