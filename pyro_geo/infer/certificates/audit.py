"""Checks that neither the prior nor a prediction knows the certifying data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density.model import evaluation_mode
from pyro_geo.density.structure import first_line
from pyro_geo.errors import ModelError
from pyro_geo.infer.certificates.origins import check_origins
from pyro_geo.infer.certificates.prior_audit import check_observed, check_prior
from pyro_geo.infer.certificates.prior_split import pair_of
from pyro_geo.infer.gibbs.model import GibbsModel, as_tuple, without_data
from pyro_geo.infer.gibbs.rows import Examples
from pyro_geo.ops.random import private_randomness

__all__ = ["Audited", "audit"]

_SINGLE = 3  # rows that are predicted alone
_EDGE = 0.01  # share of losses that rounding may turn over, at a step of the loss
_CLOSE, _NEAR = 1e-7, 1e-9  # of a prediction: relative to itself, and to its column

Values = dict[str, Tensor]


class Audited(NamedTuple):
    """What the checks have found out.

    Attributes:
        assumptions: what they cannot see, in sentences.
        means: mean loss at the positions checked, `(positions,)`; None without one.
    """

    assumptions: tuple[str, ...]
    means: Tensor | None


def audit(
    model: GibbsModel,
    sites: Sequence[Values],
    data: tuple[Any, ...],
    risk: Callable[..., Tensor] | None,
    dtype: torch.dtype | None,
) -> Audited:
    """Check what can be checked before anything is certified.

    The prior must be the same with other examples in place of these, and the
    prediction of a row must be the same whatever else stands in its batch, and where.

    Args:
        model: prior and predictor.
        sites: values of the latent sites at some positions.
        data: `(args, targets)` to certify on.
        risk: what is certified; None where its values are given.
        dtype: floating type of the run; None to leave the data as they are.

    Returns:
        What is left to assume. A prior or a model that knows the data is a
        :class:`~pyro_geo.errors.PriorDependsOnDataError`.

    Raises:
        ModelError: a prediction looks at other rows, or there are no rows.
    """
    args, targets = pytree.tree_map_only(
        Tensor,
        lambda x: x.detach().to((dtype if x.is_floating_point() else None) or x.dtype),
        pair_of(data),
    )
    dtype = dtype or torch.get_default_dtype()
    examples = Examples.of(args, targets)
    if examples is None:
        raise ModelError(
            "the data have no rows",
            where="argument data",
            found="no tensor with one row for each example",
            expected="inputs or targets with one row for each example",
            todo="Pass (args, targets) as tensors of one length.",
        )
    means = []
    with torch.no_grad(), private_randomness(0), evaluation_mode(dtype):
        left = list(check_origins(model, examples, risk))
        left += check_prior(model, sites, examples)
        check_observed(model, sites[0], examples)
        for values in sites:
            means.append(_Prediction(model, values, examples, risk).check())
    found = None if risk is None else torch.stack(means)
    return Audited(tuple(dict.fromkeys(left)), found)


class _Prediction:
    """The prediction at one position, compared with itself in other batches."""

    def __init__(
        self,
        model: GibbsModel,
        values: Values,
        examples: Examples,
        risk: Callable[..., Tensor] | None,
    ) -> None:
        self.model, self.values = model, values
        self.examples, self.risk = examples, risk
        self.name = model.model_name
        self.first = self.predict(examples.args)
        self.losses = self.loss(self.first, examples.targets)

    def predict(self, args: Any) -> Any:
        run = poutine.condition(without_data(self.model.model), data=self.values)
        return run(*args)

    def loss(self, prediction: Any, targets: Any) -> Tensor | None:
        return None if self.risk is None else self.risk(prediction, *targets).double()

    def check(self) -> Tensor:
        examples, n = self.examples, self.examples.n
        everything = torch.arange(n)
        if not self._same(self.predict(examples.args), everything):
            self._refuse(
                "the model predicts something else each time it is called",
                "two predictions at the same parameters",
                "Draw no random numbers in the prediction, and call eval() on networks "
                "with dropout or batch statistics.",
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self._check_targets(order)
        self._check_loss(order)
        half = max(1, n // 2)
        self._compare(
            examples.others(1, keep=half),
            everything[:half],
            "other examples in the rest of the batch",
        )
        self._compare(examples.take(order), order, "the rows in another order")
        self._compare(
            examples.take(everything[:half]), everything[:half], "half of the rows"
        )
        for row in order[:_SINGLE].tolist():
            index = everything[row : row + 1]
            self._compare(examples.take(index), index, f"row {row} alone")
        if not self._same(self.predict(examples.args), everything):
            self._refuse(
                "the model changes as it predicts",
                "another prediction after some calls",
                "Keep no state between calls, and call eval() on networks.",
            )
        return torch.zeros(()) if self.losses is None else self.losses.mean()

    def _check_targets(self, order: Tensor) -> None:
        """Refuse a prediction that is told the answers."""
        args, _ = self.examples.with_other_targets(order)
        targets = as_tuple(self.examples.targets)
        # an autoencoder is given what it must return, and nothing else
        alone = len(self.examples.args) == len(targets) == 1 and targets[0].dim() > 1
        everything = torch.arange(self.examples.n)
        if not alone and not self._same(self.predict(args), everything):
            self._refuse(
                "the prediction reads the targets",
                "another prediction where the targets among the arguments are in "
                "another order",
                "Predict from the inputs alone; targets may only be observed (obs=) "
                "and be compared by the loss.",
            )

    def _compare(self, data: tuple[Any, ...], index: Tensor, batch: str) -> None:
        args, targets = data
        try:
            found = self.predict(args)
            good = self._same(found, index)
            if good and self.losses is not None:
                good = self._near(found, targets, index)
        except (RuntimeError, ValueError, IndexError) as reason:
            self._refuse(
                "the model cannot predict rows on their own",
                f"{type(reason).__name__} with {batch}: {first_line(reason)}",
                "Take the number of rows from the arguments, keep their axis first, "
                "and call eval() on networks.",
            )
        if not good:
            self._refuse(
                "the prediction of a row depends on its batch",
                f"another prediction with {batch}",
                "Predict each row from its own inputs: no statistics, sorting, "
                "smoothing or softmax over rows, no index of the row; call eval() on "
                "networks with batch statistics.",
            )

    def _near(self, found: Any, targets: Any, index: Tensor) -> bool:
        """Whether the losses are the same, but for some at a step of the loss."""
        assert self.losses is not None
        losses = self.loss(found, targets)
        assert losses is not None
        if losses.shape[0] < len(index):
            return False
        then, now = self.losses[index], losses[: len(index)]
        turned = ~_close(now[:, None], then[:, None]).all(1)
        return int(turned.sum()) <= max(1.0, _EDGE * len(index))

    def _same(self, found: Any, index: Tensor) -> bool:
        """Whether a prediction is that of these rows, to rounding."""
        old, new = (pytree.tree_leaves(tree) for tree in (self.first, found))
        if len(old) != len(new):
            return False
        for one, other in zip(old, new, strict=True):
            if not isinstance(one, Tensor):
                continue
            other = torch.as_tensor(other)
            if self.examples.is_row_table(one):
                if other.dim() < one.dim() and len(index) == 1:
                    other = other.reshape(1, *one.shape[1:])
                if other.shape[1:] != one.shape[1:] or len(other) < len(index):
                    return False
                if not bool(_close(other[: len(index)], one[index], one).all()):
                    return False
        return True

    def _check_loss(self, order: Tensor) -> None:
        """Refuse a loss that looks at other rows, or at the place of a row."""
        if self.losses is None:
            return
        targets = self.examples.targets
        tables = [self.first, targets]
        if not any(map(self.examples.is_row_table, pytree.tree_leaves(self.first))):
            return
        half = order[: max(1, len(order) // 2)]
        for index in (torch.arange(len(order)), order, half, order[:1]):
            prediction, some = pytree.tree_map_only(
                Tensor,
                lambda x, i=index: x[i] if self.examples.is_row_table(x) else x,
                tuple(tables),
            )
            losses = self.loss(prediction, some)
            assert losses is not None
            same = losses.shape == index.shape
            if not same or not bool(_close(losses, self.losses[index]).all()):
                raise ModelError(
                    "the loss of a row depends on its batch, or on what came before",
                    where="argument risk",
                    found=f"another loss in a batch of {len(index)} rows",
                    expected="one value for each row, from its prediction and target",
                    todo="Compare row by row: no ranks, no index, no state.",
                )

    def _refuse(self, what: str, found: str, todo: str) -> NoReturn:
        raise ModelError(
            what,
            where=f"model {self.name!r}",
            found=found,
            expected="the prediction of a row from that row alone",
            todo=todo,
        )


def _close(found: Tensor, expected: Tensor, table: Tensor | None = None) -> Tensor:
    """Equal to rounding, relative to the entry and to its column."""
    if not (found.is_floating_point() or found.is_complex()):
        return found == expected
    coarse = 1.0 if found.dtype == torch.float64 else 1e4
    scale = expected.abs() * _CLOSE * coarse
    if table is not None and len(table):
        # the median: one large entry must not hide what others say
        typical = table.abs().nan_to_num(math.inf).median(0).values
        scale = scale + typical.nan_to_num(0.0, 0.0, 0.0) * _NEAR * coarse
    gap = (found - expected).abs()
    same = (found == expected) | (found.isnan() & expected.isnan())
    return same | (gap <= scale)
