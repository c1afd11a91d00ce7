"""A numba type of several numbers side by side, as wide as two vector registers.

A loop over lanes is vectorised or not as the compiler sees fit; arithmetic on this type
always is. Functions of lanes are plain Python, called once to write their instructions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias, Union

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, models, register_model, type_callable

__all__ = ["BYTES", "Lanes", "lanes_of", "lifted", "load", "store", "where"]

# Two registers of 64 bytes: the chain of one step is long, and the two hide each
# other's waiting.
BYTES = 128
# What may be done to floats here: fuse a product with a sum, forget the sign of zero.
_FLAGS = ("contract", "nsz")
Number: TypeAlias = Union["Lanes", float]


def lanes_of(dtype: Any) -> int:
    """Count the lanes of a floating type."""
    return BYTES // np.dtype(dtype).itemsize


class _LanesType(types.Type):
    """The type of lanes in a numba function."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.width = 8 * BYTES // dtype.bitwidth
        super().__init__(name=f"lanes({dtype}, {self.width})")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    """Lanes are one vector of LLVM."""

    def __init__(self, manager: Any, fe_type: _LanesType) -> None:
        element = ir.DoubleType() if fe_type.dtype.bitwidth == 64 else ir.FloatType()
        super().__init__(manager, fe_type, ir.VectorType(element, fe_type.width))


class Lanes:
    """Numbers, integers or truth values of all lanes, while instructions are written.

    Args:
        builder: where instructions go.
        value: a vector of LLVM.
    """

    __slots__ = ("builder", "value")
    # attributes by bits of the element: bits of the mantissa and bias of the exponent
    _LAYOUT: ClassVar[dict[int, tuple[int, int]]] = {64: (52, 1023), 32: (23, 127)}

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    @property
    def bits(self) -> int:
        """Width of an element."""
        element = self.value.type.element
        if isinstance(element, ir.IntType):
            return element.width
        return 64 if isinstance(element, ir.DoubleType) else 32

    @property
    def mantissa_bits(self) -> int:
        """Bits after the leading one."""
        return self._LAYOUT[self.bits][0]

    @property
    def bias(self) -> int:
        """What exponents are stored with."""
        return self._LAYOUT[self.bits][1]

    def _same(self, other: Number) -> Any:
        if isinstance(other, Lanes):
            return other.value
        kind = self.value.type
        return ir.Constant(kind, [other] * kind.count)

    def _new(self, value: Any) -> Lanes:
        return Lanes(self.builder, value)

    def __add__(self, other: Number) -> Lanes:
        return self._new(self.builder.fadd(self.value, self._same(other), flags=_FLAGS))

    def __sub__(self, other: Number) -> Lanes:
        return self._new(self.builder.fsub(self.value, self._same(other), flags=_FLAGS))

    def __rsub__(self, other: Number) -> Lanes:
        return self._new(self.builder.fsub(self._same(other), self.value, flags=_FLAGS))

    def __mul__(self, other: Number) -> Lanes:
        return self._new(self.builder.fmul(self.value, self._same(other), flags=_FLAGS))

    def __truediv__(self, other: Number) -> Lanes:
        return self._new(self.builder.fdiv(self.value, self._same(other), flags=_FLAGS))

    def __rtruediv__(self, other: Number) -> Lanes:
        return self._new(self.builder.fdiv(self._same(other), self.value, flags=_FLAGS))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Lanes:
        return self._new(self.builder.fneg(self.value, flags=_FLAGS))

    def _compare(self, sign: str, other: Number) -> Lanes:
        return self._new(self.builder.fcmp_ordered(sign, self.value, self._same(other)))

    def __gt__(self, other: Number) -> Lanes:
        return self._compare(">", other)

    def __lt__(self, other: Number) -> Lanes:
        return self._compare("<", other)

    def at_least(self, bound: float) -> Lanes:
        """Raise what is smaller, or not a number, to a bound."""
        return where(self > bound, self, bound)

    def at_most(self, bound: float) -> Lanes:
        """Lower what is larger, or not a number, to a bound."""
        return where(self < bound, self, bound)

    def _intrinsic(self, name: str) -> Lanes:
        kind = self.value.type
        name = f"llvm.{name}.v{kind.count}f{self.bits}"
        module = self.builder.module
        fn = module.globals.get(name)
        if fn is None:
            fn = ir.Function(module, ir.FunctionType(kind, [kind]), name)
        return self._new(self.builder.call(fn, [self.value]))

    def abs(self) -> Lanes:
        """Drop the sign."""
        return self._intrinsic("fabs")

    def sqrt(self) -> Lanes:
        """Take the square root."""
        return self._intrinsic("sqrt")

    def _as(self, element: Any) -> Lanes:
        kind = ir.VectorType(element, self.value.type.count)
        return self._new(self.builder.bitcast(self.value, kind))

    def as_integers(self) -> Lanes:
        """Read the bits of floats as integers."""
        return self._as(ir.IntType(self.bits))

    def as_floats(self) -> Lanes:
        """Read the bits of integers as floats."""
        return self._as(ir.DoubleType() if self.bits == 64 else ir.FloatType())

    def integer(self, operation: str, other: Lanes | int) -> Lanes:
        """Apply `add`, `sub`, `and_`, `or_`, `shl` or `lshr` to integers."""
        found = getattr(self.builder, operation)(self.value, self._same(other))
        return self._new(found)

    def polynomial(self, coefficients: tuple[float, ...]) -> Lanes:
        """Evaluate a polynomial, constant term first, by halves (Estrin's scheme)."""
        terms: list[Number] = list(coefficients)
        power = self
        while len(terms) > 1:
            pairs = [
                power * terms[i + 1] + terms[i] for i in range(0, len(terms) - 1, 2)
            ]
            terms = pairs + terms[len(terms) - len(terms) % 2 :]
            power = power * power
        found = terms[0]
        assert isinstance(found, Lanes)
        return found


def where(mask: Lanes, yes: Number, no: Number) -> Lanes:
    """Choose by lane; one of the two has to be lanes."""
    known = yes if isinstance(yes, Lanes) else no
    assert isinstance(known, Lanes)
    chosen = mask.builder.select(mask.value, known._same(yes), known._same(no))
    return Lanes(mask.builder, chosen)


def lifted(num_outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a Python function of lanes callable in numba functions.

    Args:
        num_outputs: how many lanes it returns; a tuple where there are several.

    Returns:
        A decorator.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        @type_callable(fn)
        def typer(context: Any) -> Callable[..., Any]:
            def of(*args: types.Type) -> types.Type:
                return (
                    types.UniTuple(args[0], num_outputs) if num_outputs > 1 else args[0]
                )

            # numba looks for the names of the arguments
            of.__signature__ = inspect.signature(fn)  # pyright: ignore
            return of

        @lower_builtin(fn, types.VarArg(types.Any))
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            found = fn(*(Lanes(builder, arg) for arg in args))
            if num_outputs == 1:
                return found.value
            assert len(found) == num_outputs
            return context.make_tuple(
                builder, sig.return_type, [one.value for one in found]
            )

        return fn

    return decorate


def load(array: Any, start: int) -> Any:
    """Read the lanes that begin at a place of a flat array."""
    raise NotImplementedError("only in compiled functions")


def store(array: Any, start: int, value: Any) -> None:
    """Write lanes to a flat array."""
    raise NotImplementedError("only in compiled functions")


@type_callable(load)
def _type_load(context: Any) -> Callable[..., Any]:
    return lambda array, start: _LanesType(array.dtype)


@type_callable(store)
def _type_store(context: Any) -> Callable[..., Any]:
    return lambda array, start, value: types.none


def _pointer(context: Any, builder: Any, sig: Any, args: Any, lanes: Any) -> Any:
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    start = context.cast(builder, args[1], sig.args[1], types.intp)
    place = builder.gep(data, [start])
    return builder.bitcast(place, context.get_data_type(lanes).as_pointer())


@lower_builtin(load, types.Array, types.Integer)
def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    place = _pointer(context, builder, sig, args, sig.return_type)
    return builder.load(place, align=BYTES // 2)


@lower_builtin(store, types.Array, types.Integer, _LanesType)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    place = _pointer(context, builder, sig, args, sig.args[2])
    builder.store(args[2], place, align=BYTES // 2)
    return context.get_dummy_value()


def tiny(x: Lanes) -> float:
    """Return a number that may be divided by without overflow."""
    return 1e-290 if x.bits == 64 else 1e-30


def huge(x: Lanes) -> float:
    """Return a number that may be multiplied by itself over some range."""
    return 1e300 if x.bits == 64 else 1e30


assert math.log2(BYTES) % 1 == 0
