"""A second device on a machine that has none: what meets it by mistake raises.

Its tensors hold their numbers in a tensor of the processor, and refuse what a tensor on
a GPU refuses: an operation with a tensor of the processor, a generator of the
processor, a view as an array. So code that makes a tensor or a generator without
saying where is found by a test on any machine. What only a GPU can show (its kernels,
its rounding, its speed) is not tested by this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing

__all__ = ["AWAY", "AwayTensor", "away", "home", "second_device"]

AWAY = torch.device("lazy")
"""A device that torch knows by name and has no kernels for; autograd runs on it."""

aten = torch.ops.aten

# Operations that take tensors of both devices: copies, and indices of the processor.
_COPIES = {aten.copy_, aten._to_copy, aten._copy_from, aten.set_}
_INDEXED = {
    aten.index,
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten._unsafe_index,
    aten._unsafe_index_put,
}
# A number on the processor goes with any other tensor, but not in these.
_STRICT = {aten.cat, aten.stack, aten.mm, aten.bmm, aten.addmm, aten.mv, aten.dot}


class AwayTensor(Tensor):
    """A tensor of the second device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> AwayTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=AWAY,
        )
        made.inner = inner
        return made

    @property
    def data(self) -> Tensor:
        """The tensor without its history; setting it sets the numbers too."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        """Read the numbers, which torch refuses for subclasses alone."""
        return self.detach().cpu().tolist()

    def __repr__(self, **options: Any) -> str:
        return f"AwayTensor({self.inner})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return AwayTensor, (self.inner,)

    # torch's own functions run on it as they are
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def home(tree: Any) -> Any:
    """Bring all tensors of a tree to the processor."""
    return pytree.tree_map_only(AwayTensor, lambda x: x.inner, tree)


def away(tree: Any) -> Any:
    """Put all tensors of a tree on the second device."""

    def moved(x: Tensor) -> Tensor:
        if isinstance(x, AwayTensor):
            return x
        return AwayTensor(x.detach()).requires_grad_(x.requires_grad)

    return pytree.tree_map_only(Tensor, moved, tree)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the processor, after a look at its devices."""
    packet = func.overloadpacket
    asked = kwargs.get("device")
    own = _own_device(packet, func, args, kwargs)
    where = own if asked is None else torch.device(asked)
    if asked is not None and where.type == AWAY.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*home(args), **home(kwargs))
    if where.type != AWAY.type:
        return result
    result = pytree.tree_map_only(Tensor, AwayTensor, result)
    return return_and_correct_aliasing(func, args, kwargs, result)


def _own_device(packet: Any, func: Any, args: Any, kwargs: Any) -> torch.device:
    """Say where the result is; refuse tensors that do not go together."""
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    if packet in _COPIES or packet in _INDEXED:
        first = args[0]
        rest = tensors[1:] if packet in _INDEXED else []
        bad = first.device.type == "cpu" and any(x.device == AWAY for x in rest)
        if packet in _INDEXED and first.device == AWAY and len(args) > 2:
            bad |= args[2].device.type == "cpu" and args[2].dim() > 0
        if bad:
            raise RuntimeError(f"{func}: tensors of two devices")
        return first.device
    far = any(x.device == AWAY for x in tensors)
    loose = packet not in _STRICT
    near = [
        x for x in tensors if x.device.type == "cpu" and not (loose and not x.dim())
    ]
    inplace = func._schema.is_mutable and any(
        x.device.type == "cpu" for x in tensors[:1]
    )
    if far and (near or inplace):
        shapes = [(tuple(x.shape), x.device.type) for x in tensors]
        raise RuntimeError(f"{func}: tensors of two devices, {shapes}")
    return AWAY if far else torch.device("cpu")


def _factory(operation: Any) -> Callable[..., AwayTensor]:
    """Make a factory of the second device, from the one of the processor."""

    def made(*args: Any, **options: Any) -> AwayTensor:
        options["device"] = torch.device("cpu")
        return AwayTensor(operation(*args, **options))

    return made


# All other factories fill what these make.
_FACTORIES = {
    "empty.memory_format": aten.empty.memory_format,
    "empty_strided": aten.empty_strided.default,
    "eye": aten.eye.default,
    "eye.m": aten.eye.m,
    "arange": aten.arange.default,
    "arange.start": aten.arange.start,
    "arange.start_step": aten.arange.start_step,
    "linspace": aten.linspace.default,
    "logspace": aten.logspace.default,
    "randperm": aten.randperm.default,
    "randperm.generator": aten.randperm.generator,
    "tril_indices": aten.tril_indices.default,
    "triu_indices": aten.triu_indices.default,
    "_efficientzerotensor": aten.zeros.default,
}


class _Generator(torch.Generator):
    """A generator that knows on which device it is said to be."""

    where: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made: Any = super().__new__(cls)
        made.where = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[reportIncompatibleVariableOverride]
        return self.where


class _Generators(TorchFunctionMode):
    """Refuse generators of another device than that of the numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, _Generator):
            asked = kwargs.get("device")
            first = next((x for x in args if isinstance(x, Tensor)), None)
            if asked is None:
                asked = torch.get_default_device() if first is None else first.device
            if torch.device(asked).type != generator.device.type:
                raise RuntimeError(
                    f"{func.__name__}: expected a generator on {asked}, found one on "
                    f"{generator.device}"
                )
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[Callable[[Any], Any]]:
    """Have a second device in this context, and a function that puts trees on it."""
    library = torch.library.Library("aten", "IMPL")
    for name, operation in _FACTORIES.items():
        library.impl(name, _factory(operation), "Lazy")
    with pytest.MonkeyPatch.context() as patch, _Generators():
        patch.setattr(torch, "Generator", _Generator)
        # a trace would take results of a subclass for constants
        known = (*proxy_tensor.HANDLED_TYPES, AwayTensor)
        patch.setattr(proxy_tensor, "HANDLED_TYPES", known)
        # torch.tensor makes its tensor on the processor and then asks for a copy
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield away
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
            library._destroy()
