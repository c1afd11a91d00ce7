"""What differs between ArviZ 0.23 and 1.x, seen with 0.23.4 and 1.3.0.

ArviZ 0.23 keeps results in an `InferenceData`, 1.x in xarray's `DataTree`. Pareto
smoothing moved to the package `arviz_stats`. `tests/compat` runs every call of ArviZ
that we make under both; nothing here needs torch.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    import xarray as xr
    from arviz import InferenceData

    ArvizData: TypeAlias = InferenceData | xr.DataTree

__all__ = [
    "get_group",
    "import_arviz",
    "major_version",
    "pareto_k",
    "pareto_smooth",
    "quiet",
    "smoothed_weights",
    "to_container",
    "uncompiled",
]

_FEWEST_WEIGHTS = 30  # ArviZ 1.x gives NaN below, 0.23 a number of little use


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


def to_container(groups: "Mapping[str, xr.Dataset]") -> "ArvizData":
    """Put datasets into the container of the installed ArviZ.

    Args:
        groups: group name to dataset.

    Returns:
        An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x.
    """
    import xarray as xr

    if major_version() >= 1:
        return xr.DataTree.from_dict(dict(groups))
    return import_arviz().InferenceData(**groups)


def pareto_k(log_weights: np.ndarray) -> float:
    """Estimate the tail of importance weights by a generalised Pareto distribution.

    Args:
        log_weights: finite logarithms, `(particles,)`, not normalised.

    Returns:
        The shape parameter; NaN for fewer than 30 weights, and for equal ones, which
        have no tail.

    Example:
        >>> bool(pareto_k(np.random.default_rng(0).normal(size=400)) < 0.7)
        True
    """
    return pareto_smooth(log_weights)[1]


def pareto_smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace the largest importance weights by quantiles of their Pareto tail.

    Args:
        log_weights: finite logarithms, `(particles,)`, not normalised.

    Returns:
        Normalised logarithms, and the shape of the tail. Fewer than 30 weights, and
        equal ones, have no tail: they are normalised alone, and the shape is NaN.

    Example:
        >>> smooth, k = pareto_smooth(np.random.default_rng(0).normal(size=400))
        >>> round(float(np.exp(smooth).sum()), 6), bool(k < 0.7)
        (1.0, True)
    """
    if len(log_weights) < _FEWEST_WEIGHTS or np.ptp(log_weights) < 1e-12:
        return log_weights - np.logaddexp.reduce(log_weights), math.nan
    (smooth,), (k,) = smoothed_weights(log_weights[None])
    return smooth - np.logaddexp.reduce(smooth), float(k)


def smoothed_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth importance ratios by a generalised Pareto distribution of their tail.

    Args:
        log_ratios: finite logarithms, `(data, draws)`.

    Returns:
        Logarithms of normalised weights, `(data, draws)`, and the shape of each tail,
        `(data,)`.

    Example:
        >>> ratios = np.random.default_rng(0).normal(size=(2, 400))
        >>> weights, shapes = smoothed_weights(ratios)
        >>> np.exp(weights).sum(1).round(6).tolist(), shapes.shape
        ([1.0, 1.0], (2,))
    """
    with quiet():
        if major_version() < 1:
            weights, shapes = import_arviz().psislw(log_ratios)
            return np.asarray(weights), np.atleast_1d(shapes)
        from arviz_stats.base import array_stats  # type: ignore[import-not-found]

        # arviz_stats takes log-likelihoods, whose importance ratios are the inverse
        weights, shapes = array_stats.psislw(-log_ratios)
        return np.asarray(weights), np.atleast_1d(shapes)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ArviZ from remarking on constant draws and such, and from compiling."""
    # ArviZ 0.23 keeps its logger to itself; 1.x says such things below the level shown.
    logger: Any = getattr(import_arviz(), "_log", logging.getLogger("arviz"))

    def unwanted(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(unwanted)
    try:
        with uncompiled(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        logger.removeFilter(unwanted)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Keep ArviZ 0.23 from compiling its variances with numba.

    In every process that takes longer than most tables do, and saves nothing later.
    """
    switch: Any = getattr(import_arviz(), "Numba", None)  # 1.x compiles on request
    if switch is None or not switch.numba_flag:
        yield
        return
    switch.disable_numba()
    try:
        yield
    finally:
        switch.enable_numba()
