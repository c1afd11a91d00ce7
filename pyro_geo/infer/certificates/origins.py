"""Checks of where things come from: the rows, the model's tensors, the particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_geo.errors import PriorDependsOnDataError
from pyro_geo.infer.certificates.prior_audit import refuse_prior
from pyro_geo.infer.certificates.prior_split import PriorSplit
from pyro_geo.infer.gibbs.foreign import Brought, brought_by, knows, parameters_of
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.rows import Examples, Rows

__all__ = [
    "DUPLICATES",
    "check_duplicates",
    "check_origins",
    "check_rows",
    "refuse_known",
    "refuse_trained_on",
]

DUPLICATES = "Equal rows among the certifying examples were drawn independently."


def check_duplicates(rows: Rows, independent: bool) -> tuple[str, ...]:
    """Refuse equal rows, unless the user states that they were drawn independently.

    Args:
        rows: certifying examples.
        independent: the statement.

    Returns:
        What it leaves to assume.

    Raises:
        PriorDependsOnDataError: there are equal rows.
    """
    if not (count := rows.duplicates):
        return ()
    if independent:
        return (f"{DUPLICATES[:-1]} ({count} of {len(rows.both)}).",)
    first, second = rows.first_pair()
    raise PriorDependsOnDataError(
        "the certifying examples repeat themselves",
        where=f"argument data, rows {first} and {second}",
        found=f"{count} of {len(rows.both)} rows equal to one before them",
        expected="independent examples, inputs and target together",
        todo="Drop copies. If equal rows were drawn independently, as with few "
        "different inputs, pass duplicates_drawn_independently=True.",
    )


_KINSHIP = {
    "pairing": (
        "inputs and targets of the certifying examples are paired in another way",
        "the same inputs and the same targets, not in the same rows",
        "Pass arguments and targets in one order.",
    ),
    "subset": (
        "the certifying examples are chosen from those that were fitted",
        "a part of the rows that the particles were fitted on",
        "Certify on all of them: which rows are left out may hang on their losses.",
    ),
    "superset": (
        "the certifying examples are more than those that were fitted",
        "rows that the particles were fitted on, and others",
        "Certify on the rows that were fitted.",
    ),
    "overlap": (
        "the certifying examples are others than those that were fitted",
        "some rows that the particles were fitted on, and others",
        "Certify on the rows that were fitted.",
    ),
    "none": (
        "the certifying examples are others than those that were fitted",
        "no row that the particles were fitted on",
        "Certify on the rows that were fitted; if these were reserved before, divide "
        "the data with split_prior and pass reserved=split.",
    ),
}


def check_rows(rows: Rows, fitted: Rows, reserved: PriorSplit | None) -> None:
    """Refuse certifying examples that were chosen after the fit.

    Args:
        rows: certifying examples.
        fitted: those that the particles were fitted on.
        reserved: the division that set the certifying examples aside before.

    Raises:
        PriorDependsOnDataError: they are neither those of the fit nor reserved.
    """
    kinship = rows.kinship(fitted)
    if kinship == "same":
        return
    if reserved is not None:
        apart = _rows_of(reserved.certify)
        prior = _rows_of(reserved.prior)
        good = apart is not None and rows.kinship(apart) == "same"
        if good and prior is not None and fitted.kinship(prior) in ("same", "subset"):
            return
    what, found, todo = _KINSHIP[kinship]
    raise PriorDependsOnDataError(
        what,
        where="argument data",
        found=f"{len(rows.both)} rows, {found}",
        expected=f"the {len(fitted.both)} rows of the fit, in any order",
        todo=todo,
    )


def _rows_of(tensors: tuple[Tensor, ...]) -> Rows | None:
    examples = Examples.of(tensors[:-1], tensors[-1:])
    return None if examples is None else examples.rows()


def refuse_trained_on(name: str, fitted: Rows, rows: Rows) -> None:
    """Refuse a predictor or a prior that was fitted on certifying examples.

    Args:
        name: of it, for the message.
        fitted: rows that it was fitted on.
        rows: certifying examples.
    """
    if fitted.kinship(rows) != "none":
        refuse_prior(
            "what was fitted on certifying examples cannot be certified on them",
            name,
            "certifying rows among those that it was fitted on",
            "Fit it on the first part of split_prior, and certify on the second.",
        )


def check_origins(
    model: GibbsModel, examples: Examples, risk: Callable[..., Tensor] | None
) -> list[str]:
    """Refuse a model or a risk that holds the certifying data.

    Args:
        model: prior and predictor.
        examples: certifying examples.
        risk: what is certified.

    Returns:
        What is left to assume.
    """
    left = []
    functions: dict[str, Callable[..., Any]] = {"model": model.model}
    if risk is not None:
        functions["risk"] = risk
    brought = brought_by(**functions)
    _check_brought(brought, examples)
    names = list(brought.tensors)
    names += [n for n in parameters_of(model.model, examples.args) if n not in names]
    if names:
        shown = ", ".join(names[:8]) + (
            f" and {len(names) - 8} more" * (len(names) > 8)
        )
        left.append(
            f"What the model brings along was fixed without looking at the certifying "
            f"examples: {shown}."
        )
    others = [
        f"{i}" for i, x in enumerate(examples.args) if not examples.is_row_table(x)
    ]
    if others:
        left.append(
            "Arguments without a row for each example were fixed without looking at "
            f"the certifying examples: number {', '.join(others)}."
        )
    for i, value in enumerate(examples.args):
        for name, table in brought_by(**{f"argument {i}": value}).tensors.items():
            if not examples.is_row_table(table) or not isinstance(value, Tensor):
                refuse_known(f"{name} of the model", table, examples)
    return left


def _check_brought(brought: Brought, examples: Examples) -> None:
    for name, value in brought.tensors.items():
        refuse_known(name, value, examples)
    for name, result in brought.results.items():
        origin = getattr(result, "origin", None)
        fitted = getattr(origin, "rows", None)
        if fitted is not None:
            refuse_trained_on(name, fitted, examples.rows())
        for value in result.target.data:
            if isinstance(value, Tensor):
                refuse_known(f"{name}, data of its run", value, examples)


def refuse_known(name: str, value: Tensor, examples: Examples) -> None:
    """Refuse a tensor that holds certifying examples.

    Args:
        name: of it, for the message.
        value: the tensor.
        examples: certifying examples.
    """
    if (found := knows(value, examples)) is not None:
        refuse_prior(
            "the model knows the certifying examples",
            name,
            f"a tensor {tuple(value.shape)} that holds {found}",
            "Use the arguments in the place of globals and closures, and for anything "
            "learnt from data the first part of split_prior.",
        )
