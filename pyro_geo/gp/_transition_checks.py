"""Checks of what transitions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape, reading_numbers
from pyro_geo.errors import DiscountError, EpisodeError, NonFiniteDataError

__all__ = [
    "discounts_of",
    "labels_of",
    "refuse_non_finite",
    "tensor_of",
    "weights_of",
]


def tensor_of(
    name: str, value: Any, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Take over a tensor, and copy anything else: an array may change later."""
    if isinstance(value, Tensor):
        return value.detach().to(device=device, dtype=dtype)
    with reading_numbers(name, value):
        return torch.tensor(np.array(value), dtype=dtype, device=device)


def discounts_of(discount: Tensor, shape: tuple[int, ...], count: int) -> Tensor:
    """Check discounts and spread them over steps and successors."""
    each = discount.shape == (*shape, count) and len(shape) < discount.dim()
    good = each or discount.dim() == 0 or discount.shape in (shape, shape[-1:])
    words = f"a number, {shape}, or {(*shape, count)}"
    check_shape("discount", discount.shape, words, good)
    bad = (discount < 0) | (discount > 1)  # NaN is refused, or dropped, with its row
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        check(
            False,
            f"discount at row {place[len(shape) - 1] if place else 0}",
            float(discount[bad][0]),
            "a number from 0 to 1",
            error=DiscountError,
        )
    discount = discount if each else discount.expand(shape).unsqueeze(-1)
    return discount.expand(*shape, count)


def weights_of(weight: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if weight is None:
        return like.new_full((1,), 1 / shape[-1]).expand(shape)
    weight = tensor_of("weight", weight, like.dtype, like.device)
    good = weight.dim() > 0 and weight.shape in (shape, shape[-1:])
    check_shape("weight", weight.shape, f"{shape}", good)
    total = weight.sum(-1)
    fits = ((total - 1).abs() < 1e-5) | total.isnan()
    fits &= ~(weight < 0).any(-1)
    check(bool(fits.all()), "weight", "other numbers", "at least 0, summing to 1")
    return weight.expand(shape)


def labels_of(episode: Any, steps: int, device: torch.device | None = None) -> Tensor:
    """Number episodes from 0 on, in the order in which they come."""
    if episode is None:
        return torch.zeros(steps, dtype=torch.long, device=device)
    label = torch.as_tensor(episode, device=device)
    check_shape("episode", label.shape, (steps,))
    starts = torch.cat([label.new_ones(1, dtype=torch.bool), label[1:] != label[:-1]])
    if len(label[starts].unique()) < int(starts.sum()):
        raise EpisodeError(
            "an episode is torn apart",
            where="argument episode",
            found=f"{int(starts.sum())} runs of {len(label.unique())} numbers",
            expected="all rows of an episode together, in the order of time",
            todo="Sort the rows by episode and time.",
        )
    return starts.cumsum(0) - 1


def refuse_non_finite(good: Tensor, nan: str) -> None:
    if nan == "raise" or not bool(good.any()):
        rows = (~good).nonzero().flatten().tolist()
        raise NonFiniteDataError(
            "a transition is not finite",
            where=f"row {rows[0]}",
            found=f"NaN or infinity in {len(rows)} of {len(good)} rows",
            expected="finite numbers",
            todo="Mend the row, or pass nan='drop'; a dropped row ends its episode.",
        )
