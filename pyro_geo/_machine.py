"""What this machine can do for the library, in ten lines."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__all__ = ["check_machine"]

# package, how it is imported, what it is for, and the extra that brings it
_OPTIONAL = (
    ("scikit-learn", "sklearn", "real data of the gallery", "demo"),
    ("dask", "dask", "chains on a cluster", "distributed"),
    ("ray", "ray", "chains on a cluster", "distributed"),
    ("gymnasium", "gymnasium", "environments of others", "control"),
    ("safetensors", "safetensors", "model files", "checkpoints"),
    ("pytorch_optimizer", "pytorch_optimizer", "SOAP and Shampoo", "unlearning"),
)
_CORE = ("torch", "pyro-ppl", "gpytorch", "arviz", "numba", "zarr")


def check_machine() -> Iterator[str]:
    """Try what the library uses of the machine.

    Yields:
        One line for each thing, as soon as it is known. The compiler is tried on a
        small function, which takes some seconds.

    Example:
        >>> lines = check_machine()
        >>> next(lines).split()[0]
        'python'
    """
    import pyro_geo
    from pyro_geo._process import free_threads

    yield _line("python", f"{platform.python_version()} on {platform.platform()}")
    yield _line("pyro_geo", pyro_geo.__version__)
    yield _line("packages", ", ".join(f"{name} {_version(name)}" for name in _CORE))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    threads = f"{free_threads()} threads for torch"
    yield _line("processor", f"{cores or os.cpu_count()} cores, {threads}")
    yield _line("memory", _memory())
    yield _line("GPU", _gpu() or "none, and none is needed")
    yield _line("compiler", _compiler())
    yield _line("temporary files", tempfile.gettempdir())
    found = [name for name, module, *_ in _OPTIONAL if find_spec(module)]
    yield _line("optional, here", ", ".join(found) or "nothing")
    yield _line("optional, missing", _missing(found))


def _line(name: str, value: str) -> str:
    return f"{name:18} {value}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _missing(found: Sequence[str]) -> str:
    lacking = [one for one in _OPTIONAL if one[0] not in found]
    return (
        "; ".join(
            f"{name} for {purpose} (pyro_geo[{extra}])"
            for name, _, purpose, extra in lacking
        )
        or "nothing"
    )


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "unknown"
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / 2**30:.0f} GiB"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names)


def _compiler() -> str:
    """Compile a small function, as a run does."""
    import torch

    from pyro_geo._compat.torch import compile_graph, trace_graph

    x = torch.arange(3.0)
    try:
        graph = trace_graph(lambda x: (x.sin() + 1,), x)
        compiled = compile_graph(graph, [x])
        right = torch.allclose(compiled(x)[0], x.sin() + 1)
    except Exception as reason:  # what the compiler raises has no common base class
        first = str(reason).strip().splitlines()[:1]
        why = first[0] if first else type(reason).__name__
        return f"none that torch can use; runs are traced instead ({why[:60]})"
    return "works" if right else "gives wrong numbers: use compile=False"
