"""What parameters are pulled to: copies, tensors, or a pretrained network by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.errors import AnchorAliasError, AnchorMismatchError, ConfigurationError

__all__ = ["Anchor", "Missing", "find_anchors", "parameter_groups"]

Anchor: TypeAlias = (
    Literal["init", "free"]
    | None
    | Sequence[Tensor | None]
    | Mapping[str, Tensor | None]
    | torch.nn.Module
)
Missing: TypeAlias = Literal["raise", "free", "init"]


def find_anchors(
    params: Sequence[Tensor],
    names: Sequence[str] | None,
    anchor: Anchor,
    missing: Missing = "raise",
) -> dict[Tensor, Tensor | None]:
    """Give each parameter its anchor.

    Args:
        params: parameters of a group.
        names: of the parameters, where they have names.
        anchor: `"init"` for copies of the parameters as they are, None for zeros,
            `"free"` to leave them to the base optimiser, a sequence with one entry for
            each parameter, or a module or a mapping by name. A given tensor is kept,
            not copied, unless its type or device differs. An entry may be None.
        missing: what becomes of a parameter without an entry in a module or mapping,
            such as a new head: `"raise"`, `"free"` to leave it to the base optimiser,
            or `"init"` to anchor it where it is.

    Returns:
        Parameter to anchor; free parameters are left out.

    Example:
        >>> head = torch.nn.Parameter(torch.ones(2))
        >>> body = torch.nn.Parameter(torch.ones(2))
        >>> pretrained = {"body": torch.zeros(2)}
        >>> found = find_anchors([body, head], ["body", "head"], pretrained, "free")
        >>> list(found.values())
        [tensor([0., 0.])]
    """
    check_choice("missing", missing, ("raise", "free", "init"))
    if isinstance(anchor, str):
        check_choice("anchor", anchor, ("init", "free"))
        kept = () if anchor == "free" else params
        return {param: param.detach().clone() for param in kept}
    if anchor is None:
        return dict.fromkeys(params)
    if isinstance(anchor, torch.nn.Module):
        anchor = dict(anchor.named_parameters())
    if isinstance(anchor, Mapping):
        return _by_name(params, names, anchor, missing)
    listed = list(anchor)
    if len(listed) != len(params):
        _refuse("the number of anchors", len(listed), f"{len(params)}, one each")
    return {
        param: _checked(f"number {k}", param, value)
        for k, (param, value) in enumerate(zip(params, listed, strict=True))
    }


def _by_name(
    params: Sequence[Tensor],
    names: Sequence[str] | None,
    anchor: Mapping[str, Tensor | None],
    missing: Missing,
) -> dict[Tensor, Tensor | None]:
    if names is None:
        _refuse(
            "the names of the parameters",
            "none",
            "pairs of name and parameter",
            "Pass module.named_parameters() in place of module.parameters().",
        )
    if params and not set(names) & set(anchor):
        _refuse("names", f"none of {_some(names)}", f"some of {_some(anchor)}")
    found: dict[Tensor, Tensor | None] = {}
    for name, param in zip(names, params, strict=True):
        if name in anchor:
            found[param] = _checked(repr(name), param, anchor[name])
        elif missing == "init":
            found[param] = param.detach().clone()
        elif missing == "raise":
            _refuse(
                f"parameter {name!r}",
                "no anchor",
                "one for every parameter",
                "Pass missing='free' where it is new, such as a head.",
            )
    return found


def _checked(name: str, param: Tensor, value: Tensor | None) -> Tensor | None:
    """Refuse an anchor of another shape, and one that is the parameter itself."""
    if value is None:
        return None
    if value.shape != param.shape:
        _refuse(f"anchor of {name}", tuple(value.shape), tuple(param.shape))
    if value.is_complex() != param.is_complex():
        _refuse(f"anchor of {name}", value.dtype, param.dtype)
    if not value.isfinite().all():
        _refuse(f"anchor of {name}", "numbers that are not finite", "finite numbers")
    same = value.device == param.device and value.numel() > 0
    if same and _memory(value) == _memory(param):
        raise AnchorAliasError(
            "an anchor is the memory of its parameter",
            where=f"anchor of {name}",
            found="the same storage, so that it would move along and never decay",
            expected="a tensor of its own",
            todo="Pass anchor='init' to anchor at the present values, or a clone.",
        )
    return value.detach().to(param)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def parameter_groups(
    module: torch.nn.Module, options: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Sort the parameters of a module into groups by patterns of their names.

    A parameter goes with the first pattern that it matches. Those that match none come
    last, in a group without options. Frozen parameters are left out.

    Args:
        module: any module.
        options: pattern, as in a shell, to options of the group: `lr`, `spd`, `anchor`,
            `missing`, `weight_decay` and whatever else the base optimiser has.

    Returns:
        Groups with names, for any torch optimiser.

    Raises:
        ConfigurationError: a pattern matches no parameter.

    Example:
        >>> net = torch.nn.ModuleDict(
        ...     {"body": torch.nn.Linear(2, 3), "head": torch.nn.Linear(3, 1)}
        ... )
        >>> groups = parameter_groups(net, {"head.*": {"anchor": "free"}})
        >>> [([name for name, _ in g["params"]], g.get("anchor")) for g in groups]
        [(['head.weight', 'head.bias'], 'free'), (['body.weight', 'body.bias'], None)]
    """
    from fnmatch import fnmatchcase

    groups = [{"params": [], **own} for own in options.values()]
    rest: dict[str, Any] = {"params": []}
    for name, param in module.named_parameters():
        if not param.requires_grad:
            continue
        match = (k for k, pattern in enumerate(options) if fnmatchcase(name, pattern))
        k = next(match, None)
        (rest if k is None else groups[k])["params"].append((name, param))
    for pattern, group in zip(options, groups, strict=True):
        if not group["params"]:
            raise ConfigurationError(
                "a pattern matches no parameter",
                where="argument options",
                found=repr(pattern),
                expected=f"one that matches some of {_some(_names(module))}",
                todo="Write it as in a shell: 'head.*'.",
            )
    check(bool(options) or bool(rest["params"]), "module", "no parameter", "some")
    return [*groups, rest] if rest["params"] else groups


def _names(module: torch.nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{listed[:4]}{' and more' if len(listed) > 4 else ''}"


def _refuse(
    where: str,
    found: object,
    expected: object,
    todo: str = "Pass one anchor for each parameter, in its shape.",
) -> NoReturn:
    raise AnchorMismatchError(
        "anchors and parameters do not match",
        where=where,
        found=found,
        expected=expected,
        todo=todo,
    )
