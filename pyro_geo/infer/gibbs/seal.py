"""Seals of what a run has made: whoever edits it, or makes it by hand, has none."""

from __future__ import annotations

import functools
import hashlib
import hmac
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.infer.gibbs.foreign import brought_by
from pyro_geo.infer.gibbs.rows import Examples, Rows

__all__ = ["Origin", "origin_of", "seal", "tensor_digests"]

# A signature and no secret: it tells results of a run from those put together by hand.
_KEY = b"pyro_geo.infer.gibbs"


class Origin(NamedTuple):
    """Where particles come from.

    Attributes:
        rows: keys of the examples that they were fitted on; None where the data have
            no rows.
        betas: inverse temperatures declared before the run.
        brought: digests of the tensors and numbers that the model brings along, by
            name.
    """

    rows: Rows | None
    betas: tuple[float, ...]
    brought: tuple[tuple[str, str], ...]


def origin_of(
    model: Callable[..., Any], args: Any, targets: Any, betas: tuple[float, ...]
) -> Origin:
    """Note what a run begins with.

    Args:
        model: prior and predictor.
        args: arguments of the model.
        targets: what the loss compares with.
        betas: inverse temperatures declared.

    Returns:
        The origin.
    """
    examples = Examples.of(args, targets)
    rows = None if examples is None else examples.rows()
    return Origin(rows, betas, tensor_digests(model))


def tensor_digests(model: Callable[..., Any]) -> tuple[tuple[str, str], ...]:
    """Digests of the tensors and numbers that a model brings along, by name."""
    brought = brought_by(model=model)
    values = {**brought.numbers, **brought.tensors}
    return tuple((name, seal(value)) for name, value in sorted(values.items()))


def seal(*contents: Any) -> str:
    """Sign contents.

    Args:
        *contents: tensors, numbers, texts, functions, and containers of them.

    Returns:
        Hexadecimal digits, the same for equal contents in another process.
    """
    digest = hmac.new(_KEY, digestmod=hashlib.sha256)
    _update(digest, contents)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:
            value = value.float()
        value = value.numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for key in sorted(value, key=repr):
            _update(digest, (key, value[key]))
    elif isinstance(value, (list, tuple)):
        digest.update(f"sequence {len(value)}".encode())
        for item in value:
            _update(digest, item)
    elif callable(value):
        _update_function(digest, value)
    else:
        digest.update(f"{type(value).__name__} {value!r}".encode())


def _update_function(digest: Any, value: Any) -> None:
    """Sign the code of a function, not where it stands."""
    if isinstance(value, functools.partial):
        _update_function(digest, value.func)
    elif isinstance(value, types.MethodType):
        _update_function(digest, value.__func__)
    elif (code := getattr(value, "__code__", None)) is not None:
        digest.update(code.co_code + repr(code.co_names).encode())
    else:
        digest.update(type(value).__qualname__.encode())
