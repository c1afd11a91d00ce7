"""The settings, the data and the density of a run, to tell it from any other."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import CheckpointError, FallbackWarning
from pyro_geo.ops.chunks import map_chunks

__all__ = [
    "check_density",
    "check_run",
    "check_same",
    "check_values",
    "check_versions",
    "describe",
    "fingerprint",
    "identity_of",
    "log_prob_at_probes",
    "probes",
    "settings_of",
]

_PROBES = 4
# relative to the density; what is compared was computed by other code, or by a graph
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


class Configured(Protocol):
    """An object that names the attributes which a resumed run is compared by."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of attributes."""
        ...


def settings_of(owner: Configured) -> dict[str, Any]:
    """Describe the settings that a kernel or a sampler declares, as JSON.

    Args:
        owner: names them in its attribute `settings`.

    Returns:
        Name to value; tensors by their digest and functions by their name.

    Example:
        >>> from pyro_geo.infer import HMC
        >>> settings_of(HMC(lambda: None))["options"]["jitter"]
        0.4
    """
    return {name: describe(getattr(owner, name)) for name in owner.settings}


def identity_of(
    owner: Configured, seed: int, run: Mapping[str, Any], target: Target
) -> dict[str, Any]:
    """Describe what makes a run another than others, as JSON.

    Args:
        owner: a kernel or a sampler; its type and its declared settings count.
        seed: of the run.
        run: options of the run that change the draws, by name.
        target: the density.

    Returns:
        A description for :func:`check_run`.
    """
    return {
        "kernel": type(owner).__name__,
        "seed": seed,
        "settings": settings_of(owner),
        "run": {name: describe(value) for name, value in run.items()},
        "target": fingerprint(target),
    }


def fingerprint(target: Target) -> dict[str, Any]:
    """Describe the data and the sites of a density, and its values at a few points.

    Args:
        target: the density.

    Returns:
        A description as JSON.
    """
    return {
        "dtype": str(target.dtype),
        "sites": {
            name: [list(site.shape), list(site.constrained_shape), repr(site.transform)]
            for name, site in target.layout.sites.items()
        },
        "data": [describe(value) for value in target.data],
        "log_prob": [repr(x) for x in log_prob_at_probes(target)],
    }


def check_same(where: str, stored: Any, now: Any, path: str = "") -> None:
    """Compare two descriptions, but for the log-densities in them.

    Args:
        where: the store, for the message.
        stored: what it was begun with.
        now: what it is to go on with.
        path: of what is compared.

    Raises:
        CheckpointError: they differ.
    """
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**stored, **now}:
            if key != "log_prob":
                name = f"{path}.{key}" if path else str(key)
                check_same(where, stored.get(key), now.get(key), name)
        return
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        for number, pair in enumerate(zip(stored, now, strict=True)):
            check_same(where, *pair, f"{path}[{number}]")
        return
    if stored != now:
        raise CheckpointError(
            "the store is of another run",
            where=f"{where}, {path}",
            found=f"{_short(now)} now",
            expected=_short(stored),
            todo="Go on with what began it, or choose another path.",
        )


def check_run(
    where: str, header: Mapping[str, Any], identity: dict[str, Any], target: Target
) -> None:
    """Compare the run that began a store with the one that is to go on with it.

    Another run is a :class:`~pyro_geo.errors.CheckpointError`, another torch a warning.

    Args:
        where: the store, for the message.
        header: of the store.
        identity: of the run now, its target's :func:`fingerprint` included.
        target: the density of that fingerprint.
    """
    now = json.loads(json.dumps(identity))
    check_same(where, {name: header.get(name) for name in now}, now)
    check_versions(where, header)
    check_density(where, target, probes(target), header["target"]["log_prob"])


def check_density(
    where: str,
    target: Target,
    q: Tensor,
    stored: Iterable[Any],
    log_prob: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Compare stored log-densities with those of a target.

    Args:
        where: the store, for the message.
        target: the density now.
        q: positions, `(points, dim)`.
        stored: log-densities there.
        log_prob: what they are of, where not of the target itself.

    Where they differ by more than rounding it is a
    :class:`~pyro_geo.errors.CheckpointError`.
    """
    check_values(
        where, "log-density", target, _in_parts(log_prob or target.log_prob, q), stored
    )


def check_versions(where: str, header: Mapping[str, Any]) -> None:
    """Warn where torch is another one than that which began a run.

    Args:
        where: the store, for the message.
        header: of the store.

    Warns:
        FallbackWarning: it is.
    """
    then = header.get("torch_version")
    if then != torch.__version__:
        warnings.warn(
            f"{where} was begun with torch {then}, and torch {torch.__version__} goes "
            "on with it: further draws are as valid, but may differ in their last bits "
            "from those of a run that never stopped.",
            FallbackWarning,
            stacklevel=11,  # the caller of `resume`
        )


def check_values(
    where: str, what: str, target: Target, now: np.ndarray, stored: Iterable[Any]
) -> None:
    """Compare stored values at stored positions with those of now.

    Args:
        where: the store, for the message.
        what: the values are.
        target: the density now; rounding depends on its type.
        now: values.
        stored: values, in the same order.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    then = np.array([float(value) for value in stored])
    tolerance = _TOLERANCE.get(target.dtype, 1e-2) * (1 + np.abs(then))
    with np.errstate(invalid="ignore"):
        close = (np.abs(now - then) <= tolerance) | (now == then)
    bad = ~(close | (np.isnan(now) & np.isnan(then)))
    if bad.any():
        point = int(bad.argmax())
        raise CheckpointError(
            "the density is not the one that was sampled",
            where=f"{where}, {what} at a stored position",
            found=float(now[point]),
            expected=float(then[point]),
            todo="Go on with the model and the data that began the run.",
        )


def probes(target: Target) -> Tensor:
    """Fixed positions near the origin, `(4, dim)`."""
    numbers = np.random.Generator(np.random.Philox(key=[0, 0]))
    q = torch.from_numpy(0.1 * numbers.standard_normal((_PROBES, target.dim)))
    return q.to(target.dtype).to(target.device)


def describe(value: Any) -> Any:
    """Describe any value as JSON.

    Args:
        value: numbers, texts, tensors, containers, functions.

    Returns:
        A description that equal values share.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest[:32]}"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: describe(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        return [describe(value.func), describe(value.args), describe(value.keywords)]
    if name := getattr(value, "__qualname__", None):
        return name
    attributes = {
        name: describe(attribute)
        for name, attribute in getattr(value, "__dict__", {}).items()
        if not name.startswith("_")
    }
    return {"type": type(value).__qualname__, **attributes}


def log_prob_at_probes(target: Target) -> list[float]:
    """The log-density at the fixed positions."""
    return _in_parts(target.log_prob, probes(target)).tolist()


def _in_parts(log_prob: Callable[[Tensor], Tensor], q: Tensor) -> np.ndarray:
    return map_chunks(log_prob, q, 256).double().cpu().numpy()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
