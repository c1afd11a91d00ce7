"""NumPy draws to ArviZ objects: the half of the bridge that is free of torch.

ArviZ 0.23 keeps results in an `InferenceData`, ArviZ 1.x in xarray's `DataTree`. The
arrays, names, labels and attributes in them are the same; only the container differs.
"""

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

import pyro_geo
from pyro_geo._compat.arviz import get_group, import_arviz, to_container
from pyro_geo.checks import check
from pyro_geo.errors import FallbackWarning, ShapeError
from pyro_geo.io._rhat import nested_r_hat
from pyro_geo.io._summary import summary
from pyro_geo.io.names import (
    PARTICLE_DIMS,
    SAMPLE_DIMS,
    label_group,
    plain_facts,
    storable,
)

if TYPE_CHECKING:
    from pyro_geo._compat.arviz import ArvizData

__all__ = ["get_group", "import_arviz", "nested_r_hat", "summary", "to_arviz"]

# One run's draws: these groups share their chains and draws.
_RUN = ("posterior", "sample_stats", "log_likelihood")
_PRIOR = ("prior", "prior_predictive", "sample_stats_prior")
_SAMPLED = (
    *_RUN,
    *_PRIOR,
    "particles",
    "posterior_predictive",
    "predictions",
    "unconstrained_posterior",
    "warmup_posterior",
    "warmup_sample_stats",
)
_DATA = ("observed_data", "constant_data", "predictions_constant_data")
_ATTRIBUTED = ("posterior", "sample_stats", "particles")


def to_arviz(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    coords: Mapping[str, Sequence[object] | np.ndarray] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
    sample_dims: Sequence[str] = SAMPLE_DIMS,
) -> "ArvizData":
    """Put groups of NumPy arrays into the container of the installed ArviZ.

    The class methods `to_arviz` of results call this one; use it directly for draws
    that come from elsewhere. Chain `i` of the result is row `i` of the arrays. No
    model is run and no random number is drawn.

    Args:
        groups: group name to array name to array. Arrays of `observed_data`,
            `constant_data` and `predictions_constant_data` have any shape, those of
            every other group `(chains, draws, *shape)`. The group `particles` is for
            draws that have weights, `(particles, draws, *shape)`, with the logarithms
            of the weights, `(particles, draws)`, under the name `log_weights`.
        dims: array name to names of the axes after chain and draw, from the left.
            Axes without a name, or with None, get ArviZ's default names. In
            `log_likelihood` names beyond the array's axes are left out, because its
            event axes are summed.
        coords: axis name to one label per entry; integers from 0 where none are given.
            In the groups of predictions labels of another length are left out.
        attrs: facts about the run, recorded on `posterior` and `sample_stats`. True
            and False are recorded as 1 and 0 and an integer beyond 64 bits as text,
            because a NetCDF file holds neither.
        sample_dims: names of the leading axes, where there are more than chain and
            draw, such as time; arrays of prior draws have these two alone.

    Returns:
        An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x. Groups without
        arrays are left out. Arrays, names or labels that do not fit together are a
        :class:`~pyro_geo.errors.ShapeError`, a group that ArviZ does not know and an
        attribute that is neither text nor number are a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Warns:
        FallbackWarning: a name cannot be stored as it is and was changed; the change
            is recorded in the attribute `renamed` too.

    Example:
        >>> draws = {"w": np.zeros((4, 50, 3)), "scale": np.ones((4, 50))}
        >>> idata = to_arviz(
        ...     {"posterior": draws},
        ...     dims={"w": ["feature"]},
        ...     coords={"feature": ["age", "bmi", "sex"]},
        ...     attrs={"seed": 1},
        ... )
        >>> posterior = get_group(idata, "posterior")
        >>> dict(posterior["w"].sizes), posterior.attrs["seed"]
        ({'chain': 4, 'draw': 50, 'feature': 3}, 1)
    """
    import xarray as xr

    known = {*_SAMPLED, *_DATA}
    unknown = sorted(set(groups) - known)
    check(not unknown, "groups", unknown, f"some of {sorted(known)}")
    # names of sample axes, which sites and plates cannot have
    taken = (*SAMPLE_DIMS, *sample_dims[2:])
    if "particles" in groups:
        taken = (*taken, *PARTICLE_DIMS)
    stored, changed = _rename(groups, dims or {}, taken)
    _check_samples(stored)
    common = {"created_at": datetime.now(UTC).isoformat()}
    facts = plain_facts({"inference_library": "pyro_geo", **(attrs or {})})
    facts.setdefault("inference_library_version", pyro_geo.__version__)
    if changed:
        facts["renamed"] = ", ".join(changed)
        warnings.warn(
            FallbackWarning(
                "Names that cannot be stored were changed",
                "",
                facts["renamed"],
                "names without '/' that are not those of sample axes",
                "Nothing to do; look them up under the new names.",
            ),
            stacklevel=2,
        )
    datasets = {}
    for group, arrays in stored.items():
        lead = _lead(group, tuple(sample_dims))
        labels = label_group(
            group,
            arrays,
            {storable(site, taken): names for site, names in (dims or {}).items()},
            coords or {},
            lead=lead,
            taken=taken,
            cut=group == "log_likelihood",
            new_data="predictions" in group,
        )
        datasets[group] = xr.Dataset(
            {site: (labels.dims[site], array) for site, array in arrays.items()},
            coords={**_sample_coords(lead, arrays, coords or {}), **labels.coords},
            attrs={**common, **(facts if group in _ATTRIBUTED else {})},
        )
    return to_container(datasets)


def _rename(
    groups: Mapping[str, Mapping[str, Any]],
    dims: Mapping[str, Sequence[str | None]],
    taken: Sequence[str],
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Give every array and axis a name that can be stored; say which ones changed."""
    stored: dict[str, dict[str, np.ndarray]] = {}
    changed: dict[str, str] = {}
    for group, arrays in groups.items():
        names = {site: storable(site, taken) for site in arrays}
        if len(set(names.values())) < len(names):
            raise ShapeError(
                "Two sites would be stored under one name",
                f"group {group!r}",
                sorted(names),
                "names that differ once '/' is written '.'",
                "Rename one of the sites.",
            )
        if arrays:
            stored[group] = {names[k]: np.asarray(v) for k, v in arrays.items()}
            axes = {d: storable(d, taken) for s in arrays for d in dims.get(s, ()) if d}
            changed |= names | axes
    return stored, [f"{old} -> {new}" for old, new in changed.items() if old != new]


def _check_samples(groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Check that sampled arrays lead with the same chains and draws."""
    sizes: dict[str, tuple[int, ...]] = {}
    for group, arrays in groups.items():
        if group in _DATA:
            continue
        run = "run" if group in _RUN else group
        for site, array in arrays.items():
            lead = sizes.setdefault(run, array.shape[:2])
            if array.ndim < 2 or array.shape[:2] != lead:
                raise ShapeError(
                    "Arrays disagree about chains and draws",
                    f"group {group!r}, site {site!r}",
                    f"shape {array.shape}",
                    "two leading axes (chains, draws)"
                    + (f" = {lead}" if len(lead) == 2 else ""),
                    "Group the draws by chain before the call.",
                )


def _lead(group: str, sample_dims: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the leading axes of a group's arrays."""
    if group in _DATA:
        return ()
    if group in _PRIOR:
        return SAMPLE_DIMS
    return PARTICLE_DIMS + sample_dims[2:] if group == "particles" else sample_dims


def _sample_coords(
    lead: tuple[str, ...],
    arrays: Mapping[str, np.ndarray],
    coords: Mapping[str, Sequence[object] | np.ndarray],
) -> dict[str, np.ndarray]:
    """Label the leading axes: chains and draws by their numbers, others by `coords`."""
    if not lead:
        return {}
    sizes = max((array.shape[: len(lead)] for array in arrays.values()), key=len)
    labels = {name: np.arange(size) for name, size in zip(lead, sizes, strict=False)}
    further = {n: np.asarray(v) for n, v in coords.items() if n in lead[2:]}
    return {**labels, **further}
