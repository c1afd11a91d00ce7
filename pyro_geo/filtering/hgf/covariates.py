"""Covariates of subjects as the columns of a regression, by a formula."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_geo.errors import CovariateError

__all__ = ["Design", "Formula", "Table", "design", "parse_formula"]

Column = tuple[str, NDArray[np.float64]]

_NAME = r"[A-Za-z_]\w*"
_VARIABLE = re.compile(rf"(?:(scale|center|C)\(\s*({_NAME})\s*\)|({_NAME}))$")
_NO_NAME = re.compile(r"\W")
_GROUP = re.compile(rf"\(\s*1\s*\|\s*({_NAME})\s*\)$")


class Table(Protocol):
    """Columns by name: a dictionary of sequences, or a data frame."""

    def __getitem__(self, name: Any, /) -> Any: ...

    def __contains__(self, name: Any, /) -> bool: ...

    def __iter__(self) -> Iterator[Any]: ...


class Formula(NamedTuple):
    """What a parameter depends on.

    Attributes:
        response: name of the parameter.
        intercept: whether there is one.
        terms: variables of each term, several for an interaction.
        groups: columns whose values have a random intercept each.
    """

    response: str
    intercept: bool
    terms: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...]


class Design(NamedTuple):
    """A formula with the numbers of a table.

    Attributes:
        response: name of the parameter.
        columns: names of the coefficients.
        matrix: value of each coefficient's covariate, `(subjects, columns)`.
        groups: by name of the column, the number of the group of each subject and the
            names of the groups.
    """

    response: str
    columns: tuple[str, ...]
    matrix: Tensor
    groups: dict[str, tuple[Tensor, tuple[str, ...]]]


def parse_formula(text: str) -> Formula:
    """Read a formula such as `omega ~ 1 + age + group`.

    Terms are `1` (there by default) and `0`, columns of the table, `scale(age)` for
    units of a standard deviation from the mean, `center(age)`, `C(code)` for numbers
    that are names, `a:b` for an interaction, `a * b` for `a + b + a:b`, and
    `(1 | site)` for a random intercept.

    Args:
        text: the formula.

    Returns:
        Its parts. A text that is no such formula raises
        :class:`~pyro_geo.errors.CovariateError`.

    Example:
        >>> parse_formula("omega ~ 1 + age * group").terms
        (('age',), ('group',), ('age', 'group'))
    """
    response, tilde, right = (part.strip() for part in text.partition("~"))
    if not tilde or not re.fullmatch(_NAME, response) or not right:
        _refuse_formula(text, text, "parameter ~ term + term")
    intercept, terms, groups = True, [], []
    for part in (part.strip() for part in right.split("+")):
        if part in ("0", "1"):
            intercept = part == "1"
        elif found := _GROUP.match(part):
            groups.append(found.group(1))
        elif "*" in part:
            names = [name.strip() for name in part.split("*")]
            masks = product((False, True), repeat=len(names))
            chosen = [
                tuple(n for n, used in zip(names, mask, strict=True) if used)
                for mask in masks
            ]
            order = {name: k for k, name in enumerate(names)}
            chosen.sort(key=lambda term: (len(term), [order[name] for name in term]))
            terms += chosen[1:]
        else:
            terms.append(tuple(name.strip() for name in part.split(":")))
    for name in {name for term in terms for name in term}:
        if not _VARIABLE.match(name):
            _refuse_formula(text, name, "a column, scale(column), C(column) or (1|g)")
    unique = tuple(dict.fromkeys(terms))
    return Formula(response, intercept, unique, tuple(dict.fromkeys(groups)))


def design(
    formula: str,
    table: Table,
    *,
    subjects: Sequence[Any] | None = None,
    by: str | None = None,
    dtype: torch.dtype | None = None,
) -> Design:
    """Evaluate a formula on a table with one row for each subject.

    Texts and truth values are categories, coded against the first in order; without an
    intercept the first term has a coefficient for each of its categories.

    Args:
        formula: see :func:`parse_formula`.
        table: columns by name, a data frame for one.
        subjects: identities in the order of the data; the rows are then put in it.
        by: column of the identities, needed with `subjects`.
        dtype: of the matrix; torch's default when left out.

    Returns:
        The design.

    Raises:
        CovariateError: the formula names a column that the table does not have, a
            value is missing, the columns differ in length, a subject has no row or
            several.

    Example:
        >>> table = {"age": [20, 30, 40], "group": ["control", "patient", "control"]}
        >>> found = design("omega ~ 1 + center(age) + group", table)
        >>> found.columns
        ('intercept', 'age', 'group_patient')
        >>> found.matrix.tolist()
        [[1.0, -10.0, 0.0], [1.0, 0.0, 1.0], [1.0, 10.0, 0.0]]
    """
    parts = parse_formula(formula)
    rows = _rows_of(table, subjects, by)
    names = {_variable(name)[1] for term in parts.terms for name in term}
    used = sorted(names | set(parts.groups))
    values = {name: _column(table, name, rows, formula) for name in used}
    lengths = {name: len(value) for name, value in values.items()}
    count = len(rows) if rows is not None else next(iter(lengths.values()), None)
    if count is None:
        count = len(next((table[name] for name in table), ()))
    if set(lengths.values()) - {count}:
        raise CovariateError(
            "columns of different lengths",
            where=f"formula {formula!r}",
            found=lengths,
            expected=f"{count} rows each",
            todo="Give each subject one row.",
        )
    columns: list[Column] = [("intercept", np.ones(count))] if parts.intercept else []
    whole = not parts.intercept
    for term in parts.terms:
        coded = [_coded(name, values, whole and len(term) == 1) for name in term]
        whole = False
        for combination in product(*coded):
            label = "_".join(name for name, _ in combination)
            columns.append((label, np.prod([x for _, x in combination], axis=0)))
    matrix = np.stack([x for _, x in columns], -1) if columns else np.ones((count, 0))
    dtype = torch.get_default_dtype() if dtype is None else dtype
    groups = {}
    for name in parts.groups:
        levels, index = np.unique(values[name].astype(str), return_inverse=True)
        groups[name] = (torch.as_tensor(index), tuple(map(str, levels)))
    return Design(
        parts.response,
        tuple(label for label, _ in columns),
        torch.as_tensor(matrix, dtype=dtype),
        groups,
    )


def _refuse_formula(text: str, found: str, expected: str) -> NoReturn:
    raise CovariateError(
        "formula not understood",
        where=f"formula {text!r}",
        found=found,
        expected=expected,
        todo="Write it as in 'omega ~ 1 + age + group'.",
    )


def _variable(name: str) -> tuple[str | None, str]:
    """Split a variable into its function and its column."""
    found = _VARIABLE.match(name)
    assert found is not None  # as the formula was read
    return found.group(1), found.group(2) or found.group(3)


def _rows_of(
    table: Table, subjects: Sequence[Any] | None, by: str | None
) -> NDArray[np.intp] | None:
    if subjects is None:
        return None
    if by is None or by not in table:
        raise _absent(str(by), table, "subjects")
    own = np.asarray(table[by]).astype(str)
    rows = []
    for subject in subjects:
        found = np.flatnonzero(own == str(subject))
        if len(found) != 1:
            raise CovariateError(
                f"subject {subject} has {len(found)} rows",
                where=f"column {by}",
                found=len(found),
                expected="one row for each subject",
                todo="Complete the table, or leave the subject out of the data.",
            )
        rows.append(found[0])
    return np.asarray(rows, dtype=np.intp)


def _column(
    table: Table,
    name: str,
    rows: NDArray[np.intp] | None,
    formula: str,
) -> NDArray[Any]:
    if name not in table:
        raise _absent(name, table, f"formula {formula!r}")
    values = np.asarray(table[name])
    values = values if rows is None else values[rows]
    missing = np.array([value is None or value != value for value in values], bool)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise CovariateError(
            f"covariate {name} is missing for a subject",
            where=f"formula {formula!r}, column {name}, row {row}",
            found=f"{values[row]} in {int(missing.sum())} of {len(values)} rows",
            expected="a value for each subject",
            todo="Fill it in, leave those subjects out, or take it out of the formula.",
        )
    return values


def _absent(name: str, table: Table, where: str) -> CovariateError:
    return CovariateError(
        f"covariate {name} is not in the table",
        where=where,
        found=", ".join(map(str, table)) or "no column",
        expected=f"a column {name}",
        todo="Add the column, or correct the name.",
    )


def _coded(
    variable: str, values: Mapping[str, NDArray[Any]], whole: bool
) -> list[Column]:
    """Give the columns of one variable, one for each category but the first."""
    function, name = _variable(variable)
    x = values[name]
    numeric = x.dtype.kind in "iuf"
    if function == "C" or not numeric:
        if function in _CHANGES:
            raise CovariateError(
                f"{function} of a column that is not numeric",
                where=f"column {name}",
                found=str(x[0]),
                expected="numbers",
                todo=f"Write {name} alone for its categories.",
            )
        texts = x.astype(str)
        levels = np.unique(texts)
        return [
            (f"{name}_{_NO_NAME.sub('_', level)}", (texts == level).astype(float))
            for level in levels[0 if whole else 1 :]
        ]
    number = x.astype(float)
    return [(name, _CHANGES[function](number) if function else number)]


def _scale(x: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = x.std()
    return (x - x.mean()) / (deviation if deviation > 0 else 1.0)


_CHANGES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "scale": _scale,
    "center": lambda x: x - x.mean(),
}
