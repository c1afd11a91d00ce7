"""A predictor and the examples that were held out from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check
from pyro_geo.infer.certificates.audit import audit
from pyro_geo.infer.certificates.certificate import Certificate
from pyro_geo.infer.certificates.examine import leaves
from pyro_geo.infer.certificates.origins import (
    check_duplicates,
    check_origins,
    refuse_known,
    refuse_trained_on,
)
from pyro_geo.infer.certificates.prior_split import pair_of
from pyro_geo.infer.gibbs.codebook import Codebook
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.rows import Examples
from pyro_geo.ops.random import private_randomness

__all__ = ["HeldOut", "held_out"]


class HeldOut(NamedTuple):
    """What is known of a predictor on held-out examples.

    Attributes:
        losses: of each example, `(n,)`, averaged over an ensemble; None where they
            cannot be computed.
        assumptions: what nothing has checked, in sentences.
    """

    losses: Tensor | None
    assumptions: tuple[str, ...]


def held_out(
    predictor: Any,
    risk: Callable[..., Tensor] | None,
    data: tuple[Any, ...] | None,
    duplicates_drawn_independently: bool,
) -> HeldOut:
    """Check that a predictor has not seen some examples, and compute its losses.

    Args:
        predictor: a result of this package or a function; None if only losses are
            known.
        risk: what is certified.
        data: `(args, targets)` held out.
        duplicates_drawn_independently: a statement of the user.

    Returns:
        Losses and assumptions.
    """
    if data is None:
        expected = "data, to compare with what the predictor was fitted on"
        check(predictor is None, "data", data, expected)
        return HeldOut(None, ())
    args, targets = pair_of(data)
    examples = Examples.of(args, targets)
    check(examples is not None, "data", "no rows", "one row for each example")
    assert examples is not None
    rows = examples.rows()
    left = check_duplicates(rows, duplicates_drawn_independently)
    if predictor is None:
        return HeldOut(None, left)
    book = _codebook(predictor)
    if book is not None:
        for _, leaf in leaves(book):
            if leaf.origin is not None and leaf.origin.rows is not None:
                name = f"argument predictor, {type(predictor).__name__}"
                refuse_trained_on(name, leaf.origin.rows, rows)
        if risk is None:
            return HeldOut(None, left)
        return HeldOut(_ensemble(book, risk, (args, targets)), left)
    if hasattr(getattr(predictor, "target", None), "data"):
        # another result of this package: its data are tensors of its target
        for value in pytree.tree_leaves(predictor.target.data):
            if isinstance(value, Tensor):
                name = f"argument predictor, {type(predictor).__name__}"
                refuse_known(name, value, examples)
        return HeldOut(None, left)
    check(callable(predictor), "predictor", repr(predictor)[:80], "a function")
    if risk is None:
        model = GibbsModel(predictor, _first)
        with torch.no_grad(), private_randomness(0):
            return HeldOut(None, left + tuple(check_origins(model, examples, None)))
    model = GibbsModel(predictor, risk)
    found = audit(model, [{}], (args, targets), risk, None)
    with torch.no_grad():
        losses = risk(predictor(*args), *targets)
    return HeldOut(losses.detach(), left + found.assumptions)


def _first(prediction: Tensor, *targets: Tensor) -> Tensor:
    return prediction


def _codebook(predictor: Any) -> Codebook | None:
    if isinstance(predictor, Codebook):
        return predictor
    if isinstance(predictor, Certificate):
        return predictor.codebook
    if isinstance(predictor, WeightedPosterior):
        return predictor.codebook("final")
    return None


def _ensemble(
    book: Codebook, risk: Callable[..., Tensor], data: tuple[Any, Any]
) -> Tensor:
    """Mean losses of an ensemble that draws a member for each prediction, `(n,)`."""
    total: Tensor | None = None
    for start, leaf in leaves(book):
        weights = book.log_p if book.log_weights is None else book.log_weights
        share = weights.softmax(0)[start : start + len(leaf)]
        alive = share > 0
        assert leaf.model is not None
        assert leaf.target is not None
        model = leaf.model.with_loss(risk)
        target = model.target(*data, dtype=leaf.target.dtype)
        part = share[alive] @ model.losses(target, leaf.q[alive])
        total = part if total is None else total + part
    assert total is not None
    return total
