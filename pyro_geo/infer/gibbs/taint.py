"""Which sample statements of a program depend on which others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.torch import pytree

__all__ = ["Dependence", "dependence"]

# What a tensor says of itself without its values.
_METADATA = {
    "__get__",
    "__len__",
    "dim",
    "element_size",
    "get_device",
    "is_complex",
    "is_contiguous",
    "is_floating_point",
    "is_same_size",
    "is_signed",
    "ndimension",
    "nelement",
    "numel",
    "size",
    "storage_offset",
    "stride",
    "type",
}


class Dependence(NamedTuple):
    """What the distributions of a program's sites were computed from.

    Attributes:
        sources: by site the marked sites that its distribution may depend on. A value
            that left the tensors before, as by `if`, `item()` or an assignment into
            another tensor, may have gone anywhere.
    """

    sources: dict[str, frozenset[str]]

    def on(self, marked: Iterable[str], sites: Iterable[str]) -> str | None:
        """Return a site that may depend on one of the marked ones, or None."""
        marked = set(marked)
        for name in sites:
            if self.sources.get(name, frozenset()) & marked:
                return name
        return None


class _Marked(Tensor):
    """A tensor that knows which sites it was computed from."""

    plain: Tensor
    names: frozenset[str]
    escaped: set[str]

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named: dict[str, Any] = kwargs or {}
        marked = [x for x in pytree.tree_leaves((args, named)) if isinstance(x, cls)]
        names = frozenset().union(*(x.names for x in marked))
        escaped = marked[0].escaped if marked else set()
        args, named = pytree.tree_map_only(cls, lambda x: x.plain, (args, named))
        found = func(*args, **named)
        name = getattr(func, "__name__", "")
        changes = name in ("__setitem__", "__set__") or (
            name.endswith("_") and not name.endswith("__")
        )
        tensors = [x for x in pytree.tree_leaves(found) if isinstance(x, Tensor)]
        if changes or "out" in named or not (tensors or name in _METADATA):
            escaped.update(names)
        return pytree.tree_map_only(Tensor, lambda x: _mark(x, names, escaped), found)


def _mark(value: Tensor, names: frozenset[str], escaped: set[str]) -> Tensor:
    if isinstance(value, _Marked):
        return value
    marked = value.as_subclass(_Marked)
    marked.plain, marked.names, marked.escaped = value, names, escaped
    return marked


class _Marker(Messenger):
    """Mark the values of some sites, and read off what distributions are made of."""

    def __init__(self, marked: Collection[str]) -> None:
        super().__init__()
        self.marked = frozenset(marked)
        self.sources: dict[str, frozenset[str]] = {}
        self.escaped: set[str] = set()

    def _pyro_post_sample(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        if isinstance(value, Tensor) and hasattr(msg["fn"], "log_prob"):
            plain = value.plain if isinstance(value, _Marked) else value
            density = msg["fn"].log_prob(plain)
            own = frozenset(self.escaped)
            for part in (density, value, msg["scale"], msg["mask"]):
                own |= part.names if isinstance(part, _Marked) else frozenset()
            self.sources[name] = own
            if name in self.marked:
                # what depends on this site depends on what it depends on through it
                msg["value"] = _mark(plain, frozenset({name}), self.escaped)


def dependence(
    program: Callable[..., Any],
    arguments: tuple[Any, ...],
    marked: Collection[str],
    values: Mapping[str, Tensor] | None = None,
) -> Dependence:
    """Run a program and follow the values of some sites through its tensors.

    Args:
        program: a model or a guide.
        arguments: what it is called with.
        marked: names of the sites to follow.
        values: of sites that are not to be drawn.

    Returns:
        What depends on them. That a site does not is proved for this run alone: a
        value copied by `torch.tensor` is not followed, so compare numbers as well.
    """
    marker = _Marker(marked)
    run = poutine.condition(program, data=dict(values or {}))
    with marker, torch.no_grad(), pyro.validation_enabled(False):
        run(*arguments)
    return Dependence(marker.sources)
