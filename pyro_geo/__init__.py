"""Geometric and mechanical inference methods for Pyro models.

The way of the data is one line: model and data, `Target`, kernel, draws, ArviZ.
Importing this package loads nothing heavy; each name below is imported when it is
first asked for.

Sub-packages:
    infer: what a user calls on a model, with the batched runner in `infer.mcmc`.
    target: a Pyro model as a flat, batched, differentiable density.
    gp: draws of Gaussian processes as GPyTorch models.
    geometry: curvature of a target.
    ops: small pure tensor functions.
    io: ArviZ output and reports.
    testing: targets, scores and deliberately broken kernels for tests.
    errors: every exception and warning of the library.

Example:
    >>> import pyro_geo
    >>> pyro_geo.Target.__name__
    'Target'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_geo.citations import citation
    from pyro_geo.density import Layout, Target

__version__ = "0.1.0"

__all__ = ["Layout", "Target", "__version__", "citation"]

_HOME = {
    "Layout": "pyro_geo.density",
    "Target": "pyro_geo.density",
    "citation": "pyro_geo.citations",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for.

    Args:
        name: the attribute.

    Returns:
        The object of that name.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
