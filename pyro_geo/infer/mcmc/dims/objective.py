"""The loss that DiMS descends, read off a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.density import Target
from pyro_geo.ops.derivatives import BatchedLoss, hvp, value_and_grad

__all__ = ["Loss", "Objective"]

Loss = Literal["nll", "joint"] | Callable[[dict[str, Tensor]], Tensor]


class Objective:
    r"""A loss over the flat positions of a target.

    `"nll"` is minus the log-likelihood, plus `prior_weight` times minus the log-prior;
    `"joint"` is minus the log-joint in unconstrained space, Jacobians included; a
    callable gets one dictionary of unconstrained values.

    Args:
        loss: which.
        prior_weight: share of the prior in `"nll"`.

    Raises:
        ConfigurationError: an unknown loss, or a weight that does not apply.
    """

    def __init__(self, loss: Loss = "nll", prior_weight: float = 0.0) -> None:
        check_number("prior_weight", prior_weight)
        known = callable(loss) or loss in ("nll", "joint")
        expected = "'nll', 'joint' or a function of a dictionary"
        check(known, "loss", repr(loss), expected)
        shown = f"{prior_weight} with loss={loss!r}"
        check(
            not prior_weight or loss == "nll", "prior_weight", shown, "0, or loss='nll'"
        )
        self.loss = loss
        self.prior_weight = 1.0 if loss == "joint" else prior_weight

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it apart from other losses on the same target."""
        return ("loss", self.loss, self.prior_weight)

    def on(self, target: Target) -> BatchedLoss:
        """Return the loss as a function of positions, `(lanes, dim) -> (lanes,)`."""
        loss, weight = self.loss, self.prior_weight
        if callable(loss):
            return lambda q: target.map(lambda x: loss(target.layout.unflatten(x)), q)

        def weighted(q: Tensor) -> Tensor:
            terms = target.terms(q)
            if weight == 0:  # an infinite prior density times zero would be NaN
                return -terms.log_likelihood
            return -(terms.log_likelihood + weight * terms.log_prior)

        return weighted

    def value_and_grad(self, target: Target, q: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient on the traced rung, for what runs briefly."""
        lifted = target.lift(
            (*self.key, "value_and_grad"),
            lambda target, x: value_and_grad(self.on(target), x),
            "the loss and its gradient",
        )
        return lifted(target.data, q, rung="traced", laned=(True,))

    def hvp(self, target: Target, q: Tensor, v: Tensor) -> Tensor:
        """Hessian-vector product on the traced rung."""
        lifted = target.lift(
            (*self.key, "hvp"),
            lambda target, x, y: hvp(self.on(target), x, y),
            "the loss's Hessian product",
        )
        return lifted(target.data, q, v, rung="traced", laned=(True, True))
