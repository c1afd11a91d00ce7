"""How large a ball is: checks of its radius, its nats or its mass."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.errors import BallSpecError

__all__ = ["Separation", "Size", "check_kappa", "size_of"]

Separation = Literal["mahalanobis", "tail"]


class Size:
    """Size of a ball as a user gives it.

    Args:
        kind: `radius`; `mass`, a probability; or `log_tail`, the logarithm of the
            probability outside.
        value: of that kind.
    """

    def __init__(
        self, kind: Literal["radius", "mass", "log_tail"], value: float | Tensor
    ) -> None:
        self.kind = kind
        self.value = value


def size_of(
    radius: float | Tensor | None,
    nats: float | Tensor | None,
    mass: float | Tensor | None,
    separation: Separation,
    validate: bool,
) -> Size:
    """Read a size, of which exactly one must be given.

    Args:
        radius: of the ball in whitened coordinates, above 0.
        nats: largest separation in the ball, above 0.
        mass: probability of the ball under the base, between 0 and 1.
        separation: what nats are counted in.
        validate: whether the values of tensors are checked.

    Returns:
        The size, as a radius, a mass, or the logarithm of the mass outside.

    Raises:
        BallSpecError: none or several are given.
    """
    check_choice("separation", separation, ("mahalanobis", "tail"))
    options = {"radius": radius, "nats": nats, "mass": mass}
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) != 1:
        raise BallSpecError(
            "a ball has one size",
            where="arguments radius, nats, mass",
            found=f"{sorted(given)}" if given else "none of them",
            expected="exactly one",
            todo="Pass mass= if in doubt: it means the same in every dimension.",
        )
    name, value = next(iter(given.items()))
    high = 1.0 if name == "mass" else math.inf
    check_range(name, value, high, validate)
    if name == "radius":
        return Size("radius", value)
    if name == "mass":
        return Size("mass", value)
    if separation == "tail":
        return Size("log_tail", -value)
    root = torch.sqrt(2 * value) if isinstance(value, Tensor) else math.sqrt(2 * value)
    return Size("radius", root)


def check_range(name: str, value: float | Tensor, high: float, validate: bool) -> None:
    """Refuse a size that is not strictly between 0 and `high`, or not finite."""
    if not isinstance(value, Tensor):
        above = f" and below {high:g}" if math.isfinite(high) else " and finite"
        try:
            good = 0 < value < high
        except (TypeError, ValueError):
            good = False
        check(good, name, repr(value), f"above 0{above}", error=BallSpecError)
        return
    if validate:
        good = bool(((value > 0) & (value < high)).all())
        found = value.detach().flatten()[:4].tolist()
        expected = "above 0" + (f" and below {high:g}" if high < math.inf else "")
        check(good, name, found, f"{expected}, everywhere", error=BallSpecError)


def check_kappa(kappa: float) -> float:
    """Refuse a power of the field that is negative, not finite, or a tensor.

    Args:
        kappa: the power.

    Returns:
        It, as a float.
    """
    good = isinstance(kappa, (int, float)) and 0 <= kappa < math.inf
    expected = "a finite Python number of at least 0"
    check(good, "kappa", repr(kappa), expected, error=BallSpecError)
    return float(kappa)
