"""Reader of a local posteriordb folder: data, reference draws, and our own models.

posteriordb (Magnusson et al.) pairs data and Stan programs with ten thousand draws
that were checked for convergence. The folder is read in its own layout and nothing of
it is part of this package; the models behind the names are written in Pyro.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check_choice
from pyro_geo.errors import CheckpointError
from pyro_geo.testing.posteriors import MODELS

__all__ = ["POSTERIORS", "Posterior", "folder", "latent_sites", "load"]

POSTERIORS: tuple[str, ...] = tuple(MODELS)

_DATABASE = "posterior_database"  # its name in a copy of the whole repository
_COLUMN = re.compile(r"(\w+)(?:\[(\d+(?:,\d+)*)\])?")


class Posterior(NamedTuple):
    """A model, its data, and draws that another sampler took of its posterior.

    Args:
        name: of the posterior in posteriordb.
        model: the Pyro model, to be called with `args`.
        args: its data, floating tensors.
        reference: published draws by parameter, `(chains, draws, *shape)`, in the
            model's own space. Each parameter is a latent or a deterministic site.

    Example:
        >>> Posterior("line", print, (torch.ones(2),), {}).name
        'line'
    """

    name: str
    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    reference: dict[str, Tensor]


def folder() -> Path | None:
    """Find a posteriordb folder on this machine.

    Returns:
        The folder that the environment variable `PDB_PATH` names, and only that one
        where it is set; else `../shared/posteriordb` as seen from the repository or
        from the current folder. `None` where there is none.

    Example:
        >>> place = folder()
        >>> place is None or place.is_dir()
        True
    """
    named = os.environ.get("PDB_PATH")
    if named:
        places = [Path(named)]
    else:
        roots = (Path(__file__).resolve().parents[2], Path.cwd().resolve())
        places = [root.parent / "shared" / "posteriordb" for root in roots]
    return next((place for place in places if _database(place).is_dir()), None)


def load(
    name: str,
    *,
    dtype: torch.dtype = torch.float64,
    path: str | os.PathLike[str] | None = None,
) -> Posterior:
    """Read one posterior.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where there is no model for
    this name.

    Args:
        name: one of :data:`POSTERIORS`.
        dtype: floating type of data and draws.
        path: the posteriordb folder; what :func:`folder` finds when left out.

    Returns:
        The model, its arguments and the reference draws.

    Raises:
        CheckpointError: the folder or one of its files is missing or is not
            what its name promises.

    References:
        Magnusson, Torgander, Bürkner, Zhang, Carpenter, Vehtari (2025), posteriordb:
        testing, benchmarking and developing Bayesian inference algorithms.

    Example:
        >>> if folder() is not None:
        ...     posterior = load("arK-arK")
        ...     assert posterior.reference["beta"].shape == (10, 1000, 5)
    """
    check_choice("name", name, POSTERIORS)
    place = folder() if path is None else Path(path)
    if place is None or not _database(place).is_dir():
        raise CheckpointError(
            "no posteriordb folder",
            where="environment variable PDB_PATH" if path is None else "path",
            found="nothing" if place is None else str(place),
            expected="a folder in the layout of posteriordb",
            todo="Point PDB_PATH at a copy of posteriordb.",
        )
    root = _database(place).parent
    record = _read(root / "posteriors" / f"{name}.json")
    data = _read(root / "data" / "data" / f"{record['data_name']}.json.zip")
    draws = root / "reference_posteriors" / "draws" / "draws"
    draws = draws / f"{record['reference_posterior_name']}.json.zip"
    reference = _join(_read(draws), draws, dtype)
    _check_dimensions(reference, record["dimensions"], draws)
    entry = MODELS[name]
    return Posterior(name, entry.model, entry.arguments(data, dtype), reference)


def latent_sites(posterior: Posterior) -> dict[str, Tensor]:
    """Turn reference draws into values of the model's latent sites.

    They differ where a published parameter is a function of others, as the effects of
    the non-centred eight schools are.

    Args:
        posterior: as it was loaded.

    Returns:
        Site to `(chains, draws, *shape)`, for `Target.unconstrain`.

    Example:
        >>> sites = {"mu": torch.zeros(1, 1), "tau": torch.ones(1, 1)}
        >>> sites["theta"] = torch.arange(8.0).expand(1, 1, 8)
        >>> name = "eight_schools-eight_schools_noncentered"
        >>> latents = latent_sites(Posterior(name, print, (), sites))
        >>> latents["theta_trans"][0, 0, :3].tolist()
        [0.0, 1.0, 2.0]
    """
    return MODELS[posterior.name].latents(posterior.reference)


def _database(place: Path) -> Path:
    """The folder of posterior records: `place` may be either level above it."""
    inner = place / _DATABASE / "posteriors"
    return inner if inner.is_dir() else place / "posteriors"


def _read(file: Path) -> Any:
    """Read a JSON file, or the only file in a zip archive."""
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                (member,) = archive.namelist()
                return json.loads(archive.read(member))
        return json.loads(file.read_bytes())
    except (OSError, ValueError, zipfile.BadZipFile) as reason:
        raise _unusable(file, reason, "one JSON document") from reason


def _unusable(file: Path, found: object, expected: object) -> CheckpointError:
    return CheckpointError(
        "posteriordb file cannot be used",
        where=str(file.name),
        found=found,
        expected=expected,
        todo="Copy the file again from posteriordb.",
    )


def _join(
    chains: Sequence[Mapping[str, Sequence[float]]], file: Path, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Put the columns `name[1,2]` of all chains together by name."""
    cells: dict[str, dict[tuple[int, ...], str]] = {}
    for column in chains[0]:
        match = _COLUMN.fullmatch(column)
        if match is None:
            raise _unusable(file, repr(column), "columns like name or name[1,2]")
        index = tuple(int(i) - 1 for i in (match[2] or "").split(",") if i)
        cells.setdefault(match[1], {})[index] = column
    reference = {}
    for name, columns in cells.items():
        shape = tuple(max(axis) + 1 for axis in zip(*columns, strict=True))
        order = list(np.ndindex(*shape))
        try:
            table = [[chain[columns[index]] for index in order] for chain in chains]
            values = torch.tensor(table, dtype=torch.float64)  # (chains, cells, draws)
        except (KeyError, ValueError) as reason:
            raise _unusable(
                file, repr(reason), "the same columns everywhere"
            ) from reason
        values = values.transpose(1, 2).unflatten(2, shape or (1,))
        reference[name] = (values if shape else values.squeeze(2)).to(dtype)
    return reference


def _check_dimensions(
    reference: Mapping[str, Tensor], dimensions: Mapping[str, int], file: Path
) -> None:
    sizes = {name: math.prod(value.shape[2:]) for name, value in reference.items()}
    if sizes != dict(dimensions):
        raise _unusable(file, sizes, dict(dimensions))
