"""NumPy draws to ArviZ objects: the half of the bridge that is free of torch.

ArviZ 0.23 keeps results in an `InferenceData`, ArviZ 1.x in xarray's `DataTree`. The
arrays, names, labels and attributes in them are the same; only the container differs.
"""

import json
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
    Coords,
    Dims,
    label_group,
    name_groups,
    plain_facts,
    plain_text,
)
from pyro_geo.io.naming import LOG_WEIGHTS, RENAMED, WEIGHTED_DIMS, true_names

if TYPE_CHECKING:
    from pyro_geo._compat.arviz import ArvizData

__all__ = [
    "get_group",
    "import_arviz",
    "nested_r_hat",
    "summary",
    "to_arviz",
    "true_names",
]

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
_SHOWN = 6  # changed names in a warning


def to_arviz(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    dims: Dims | None = None,
    coords: Coords | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
    sample_dims: Sequence[str] = SAMPLE_DIMS,
    log_weights: np.ndarray | None = None,
) -> "ArvizData":
    """Put groups of NumPy arrays into the container of the installed ArviZ.

    The class methods `to_arviz` of results call this one; use it directly for draws
    that come from elsewhere. Chain `i` of the result is row `i` of the arrays. No
    model is run and no random number is drawn.

    Args:
        groups: group name to array name to array. Arrays of `observed_data`,
            `constant_data` and `predictions_constant_data` have any shape, those of
            every other group `(chains, draws, *shape)`. The group `particles` is for
            draws that have weights, `(particles, draws, *shape)`; the logarithms of
            the weights stand in it as `log_weights` or are given apart.
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
        log_weights: logarithms of the particles' weights, `(particles, draws)`; a site
            of that name is then another array, and renamed.

    Returns:
        An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x. Groups without
        arrays are left out. Arrays, names or labels that do not fit together are a
        :class:`~pyro_geo.errors.ShapeError`, a group that ArviZ does not know and an
        attribute that is neither text nor number are a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Warns:
        FallbackWarning: a name cannot be stored as it is and was changed, one to one;
            :func:`true_names` reads it back from the attribute `renamed` of the group.

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
    stored = {
        group: {site: np.asarray(value) for site, value in arrays.items()}
        for group, arrays in groups.items()
        if arrays
    }
    _check_samples(stored)
    # names of sample axes, which sites and plates cannot have
    taken = {*SAMPLE_DIMS, *sample_dims[2:]}
    if "particles" in groups:
        taken |= {*WEIGHTED_DIMS}
    leads = {group: _lead(group, tuple(sample_dims)) for group in stored}
    if log_weights is None:
        log_weights = stored.get("particles", {}).pop(LOG_WEIGHTS, None)
    naming = name_groups(stored, dims or {}, leads, taken)
    common = {"created_at": datetime.now(UTC).isoformat()}
    facts = plain_facts({"inference_library": "pyro_geo", **(attrs or {})})
    facts.setdefault("inference_library_version", pyro_geo.__version__)
    labels = {
        group: label_group(
            group,
            arrays,
            naming[group],
            dims or {},
            coords or {},
            lead=leads[group],
            cut=group == "log_likelihood",
            new_data="predictions" in group,
        )
        for group, arrays in stored.items()
    }
    renamed = {
        n: true for named in labels.values() for n, true in named.renamed.items()
    }
    if renamed:
        _warn_of(renamed)
    datasets = {}
    for group, arrays in stored.items():
        names, named = naming[group].sites, labels[group]
        content = {
            names[site]: (named.dims[names[site]], array)
            for site, array in arrays.items()
        }
        if group == "particles" and log_weights is not None:
            content[LOG_WEIGHTS] = (leads[group][: log_weights.ndim], log_weights)
        sampled = _sample_coords(leads[group], content, coords or {})
        own = {RENAMED: json.dumps(named.renamed)} if named.renamed else {}
        datasets[group] = xr.Dataset(
            content,
            coords={**sampled, **named.coords},
            attrs={**common, **(facts if group in _ATTRIBUTED else {}), **own},
        )
    return to_container(datasets)


def _warn_of(renamed: Mapping[str, str]) -> None:
    changes = [f"{plain_text(true)} -> {new}" for new, true in renamed.items()]
    shown = ", ".join(changes[:_SHOWN]) + (", ..." if len(changes) > _SHOWN else "")
    warnings.warn(
        FallbackWarning(
            "Names that cannot be stored were changed",
            "",
            shown,
            "names that files can hold, other than those of sample axes",
            "Nothing to do; `true_names` gives them back from the attributes.",
        ),
        stacklevel=3,
    )


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
    content: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Coords,
) -> dict[str, np.ndarray]:
    """Label the leading axes: chains and draws by their numbers, others by `coords`."""
    if not lead:
        return {}
    shapes = (array.shape[: len(lead)] for _, array in content.values())
    sizes = max(shapes, key=len)
    labels = {name: np.arange(size) for name, size in zip(lead, sizes, strict=False)}
    further = {n: np.asarray(v) for n, v in coords.items() if n in lead[2:]}
    return {**labels, **further}
