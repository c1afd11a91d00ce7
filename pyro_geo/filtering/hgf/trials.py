"""Tables of choices with one row for each trial, as behavioural toolboxes keep them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.errors import HGFDomainError, HGFShapeError

__all__ = ["Trials", "read_trials"]


class Trials(NamedTuple):
    """Columns of a table as one row for each subject, in the order of the file.

    Attributes:
        subjects: identities.
        values: by name of the column, NaN where a subject has no value or fewer
            trials, `(subjects, T)`.
        observed: whether every column has a value, bool `(subjects, T)`.
    """

    subjects: tuple[str, ...]
    values: dict[str, Tensor]
    observed: Tensor


def read_trials(
    path: str | PathLike[str],
    columns: Sequence[str] = ("choice", "outcome"),
    *,
    subject: str = "subjID",
    dtype: torch.dtype | None = None,
) -> Trials:
    """Read a table of trials in the layout of hBayesDM.

    The first line names the columns, which tabs or commas separate. The rows of a
    subject are its trials in order; subjects may have different numbers of them.

    Args:
        path: of the file.
        columns: of numbers, to be read.
        subject: column of the identities.
        dtype: of the values; torch's default when left out.

    Returns:
        The trials. `NA`, `NaN` and nothing are missing values; other texts are a
        :class:`~pyro_geo.errors.HGFDomainError`.

    Raises:
        HGFShapeError: the file lacks a column, or has no trial.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> rows = ["subjID,choice,outcome", "a,1,-1", "a,2,1"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "task.csv"
        ...     _ = file.write_text(chr(10).join(rows))
        ...     trials = read_trials(file)
        >>> trials.subjects, trials.values["outcome"].tolist()
        (('a',), [[-1.0, 1.0]])
    """
    with Path(path).open(newline="") as file:
        head = file.readline()
        file.seek(0)
        table = csv.DictReader(file, delimiter="\t" if "\t" in head else ",")
        for name in (subject, *columns):
            if name not in (table.fieldnames or ()):
                raise HGFShapeError(
                    f"no column {name}",
                    where=f"file {path}",
                    found=", ".join(table.fieldnames or ()) or "an empty file",
                    expected=f"columns {', '.join((subject, *columns))}",
                    todo="Name the columns: subject=..., columns=(...).",
                )
        found: dict[str, list[list[float]]] = {}
        for line, row in enumerate(table, 2):
            numbers = [_number(row[name], name, line, path) for name in columns]
            found.setdefault(row[subject], []).append(numbers)
    if not found:
        raise HGFShapeError(
            "no trial",
            where=f"file {path}",
            found="the names of the columns alone",
            expected="a row for each trial",
            todo="Read another file.",
        )
    length = max(map(len, found.values()))
    values = torch.full((len(found), length, len(columns)), torch.nan, dtype=dtype)
    for row, trials in zip(values, found.values(), strict=True):
        row[: len(trials)] = torch.tensor(trials, dtype=values.dtype)
    by_name = dict(zip(columns, values.unbind(-1), strict=True))
    return Trials(tuple(found), by_name, ~values.isnan().any(-1))


def _number(text: str | None, name: str, line: int, path: str | PathLike[str]) -> float:
    if text is None or text.strip() in ("", "NA", "NaN"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise HGFDomainError(
            "value is no number",
            where=f"file {path}, line {line}, column {name}",
            found=repr(text),
            expected="a number, or NA",
            todo="Code it as a number.",
        ) from None
