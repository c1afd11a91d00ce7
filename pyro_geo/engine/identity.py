"""The settings, the data and the model of a run, to tell it from any other."""

from __future__ import annotations

import contextlib
import json
import platform
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from pyro_geo.density import Target
from pyro_geo.engine.descriptions import describe, digest_of, tensors_in
from pyro_geo.errors import CheckpointError, FallbackWarning

__all__ = [
    "Likeness",
    "check_identity",
    "check_run",
    "check_same",
    "check_versions",
    "describe_model",
    "fingerprint",
    "identity_of",
    "machine",
    "settings_of",
]


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
        Name to value; tensors by their digest, functions by their code and what they
        hold.

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


class Likeness(NamedTuple):
    """How far a run that is to go on is known to be the one that began.

    Attributes:
        model: its code is the same, and so is what it holds.
        machine: it is on the same kind of processor, with the same torch.
    """

    model: bool
    machine: bool

    @property
    def exact(self) -> bool:
        """Whether densities must agree to the last bit.

        The same machine gives the same bits for the same operations, so that other
        bits mean another density, unless nothing about the model has changed: then
        rounding may depend on where in memory its data lie.
        """
        return self.machine and not self.model


def fingerprint(target: Target) -> dict[str, Any]:
    """Describe the data and the sites of a density.

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
    }


def describe_model(target: Target) -> dict[str, Any]:
    """Describe the code of a model and what it holds, such as data in a closure.

    Args:
        target: the density.

    Returns:
        Digests, as JSON: of the whole, and of each tensor that is no parameter of a
        module.
    """
    density: Any = target.density
    while hasattr(density, "inner"):  # a tempered one
        density = density.inner
    names = ("model", "fn", "module", "loss")
    parts = {n: describe(getattr(density, n)) for n in names if hasattr(density, n)}
    return {"digest": digest_of(parts), "tensors": tensors_in(parts)}


def machine() -> dict[str, str]:
    """What the last bits of a computation depend on.

    Returns:
        Versions and the kind of processor, by name.
    """
    return {
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def check_same(
    where: str, stored: Any, now: Any, path: str = "", python: str | None = None
) -> None:
    """Compare two descriptions.

    Args:
        where: the store, for the message.
        stored: what it was begun with.
        now: what it is to go on with.
        path: of what is compared.
        python: version that it was begun with, where that is another one.

    Raises:
        CheckpointError: they differ.
    """
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in {**stored, **now}:
            name = f"{path}.{key}" if path else str(key)
            check_same(where, stored.get(key), now.get(key), name, python)
        return
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        for number, pair in enumerate(zip(stored, now, strict=True)):
            check_same(where, *pair, f"{path}[{number}]", python)
        return
    if stored != now:
        todo = "Go on with what began it, or choose another path."
        if python is not None and path.split(".")[-1] == "code":
            todo = (
                f"It was begun with Python {python}, where the same text of a function "
                f"has other instructions than under {platform.python_version()}: go "
                "on with that version."
            )
        raise CheckpointError(
            "the store is of another run",
            where=f"{where}, {path}",
            found=f"{_short(now)} now",
            expected=_short(stored),
            todo=todo,
        )


def check_run(
    where: str, header: Mapping[str, Any], identity: dict[str, Any], target: Target
) -> Likeness:
    """Compare the run that began a store with the one that is to go on with it.

    Another run is a :class:`~pyro_geo.errors.CheckpointError`, another torch a warning.

    Args:
        where: the store, for the message.
        header: of the store.
        identity: of the run now, its target's :func:`fingerprint` included.
        target: the density of that fingerprint.

    Returns:
        How much is the same that need not be.
    """
    _check_settings(where, header, identity)
    model = header.get("model")
    known = model if isinstance(model, dict) else {}
    here = json.loads(json.dumps(describe_model(target)))
    # The code may have changed in what is no matter, a comment or a name: then the
    # density decides. Data that the model holds must be what they were.
    tensors = known.get("tensors")
    if isinstance(tensors, dict):
        for name in tensors.keys() & here["tensors"].keys():
            path = f"data held by the model, {name}"
            check_same(where, tensors[name], here["tensors"][name], path)
    check_versions(where, header)
    same_machine = header.get("machine") == machine()
    return Likeness(known.get("digest") == here["digest"], same_machine)


def check_identity(
    where: str, header: Mapping[str, Any], identity: dict[str, Any]
) -> None:
    """Compare the run that began a store with one that has no density.

    Another run is a :class:`~pyro_geo.errors.CheckpointError`, another torch a warning.

    Args:
        where: the store, for the message.
        header: of the store.
        identity: of the run now.
    """
    _check_settings(where, header, identity)
    check_versions(where, header)


def _check_settings(
    where: str, header: Mapping[str, Any], identity: dict[str, Any]
) -> None:
    now = json.loads(json.dumps(identity))
    then = str(header.get("python_version"))
    python = None if then == platform.python_version() else then
    stored = {name: header.get(name) for name in now}
    check_same(where, stored, now, python=python)


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
            stacklevel=12,  # the caller of `resume`
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
