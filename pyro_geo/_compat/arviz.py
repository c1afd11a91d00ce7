"""ArviZ itself: its import, its containers, and how to keep it quiet."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    import xarray as xr
    from arviz import InferenceData

    ArvizData: TypeAlias = InferenceData | xr.DataTree

__all__ = ["get_group", "import_arviz", "major_version", "quiet"]


def import_arviz() -> "ModuleType":
    """Import ArviZ without its announcement of the next major version.

    ArviZ 0.23 gives a `FutureWarning` on the first import of a day, which would stop a
    program that runs with warnings as errors. Only that message is filtered, and only
    during the import.

    Returns:
        The module.

    Example:
        >>> int(import_arviz().__version__.split(".")[0]) in (0, 1)
        True
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning
        )
        import arviz
    return arviz


def major_version() -> int:
    """Return the major version of the installed ArviZ."""
    return int(import_arviz().__version__.split(".")[0])


def get_group(idata: "ArvizData", name: str) -> "xr.Dataset | None":
    """Return one group as a dataset, whichever container it is in.

    Args:
        idata: an `InferenceData` or a `DataTree`.
        name: the group.

    Returns:
        The dataset, or None where there is no such group.

    Example:
        >>> from pyro_geo.io.arviz import to_arviz
        >>> idata = to_arviz({"posterior": {"w": np.zeros((2, 5))}})
        >>> get_group(idata, "posterior")["w"].shape
        (2, 5)
        >>> get_group(idata, "prior") is None
        True
    """
    import xarray as xr

    if isinstance(idata, xr.DataTree):
        return idata.children[name].to_dataset() if name in idata.children else None
    return idata[name] if name in idata.groups() else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ArviZ from remarking on constant draws, NaN and short chains."""
    # ArviZ 0.23 keeps its logger to itself; 1.x says such things below the level shown.
    logger: Any = getattr(import_arviz(), "_log", logging.getLogger("arviz"))

    def unwanted(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(unwanted)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        logger.removeFilter(unwanted)
