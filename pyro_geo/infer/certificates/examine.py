"""Everything that is checked before a codebook certifies anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import (
    ModelError,
    NotProperlyWeightedError,
    PriorDependsOnDataError,
    ShapeError,
)
from pyro_geo.infer.certificates.audit import audit
from pyro_geo.infer.certificates.origins import check_duplicates, check_rows
from pyro_geo.infer.certificates.prior_split import PriorSplit, pair_of
from pyro_geo.infer.gibbs.codebook import Codebook, Losses
from pyro_geo.infer.gibbs.rows import Examples, Rows
from pyro_geo.infer.gibbs.seal import tensor_digests

__all__ = ["Examined", "check_status", "check_unchanged", "examine", "leaves"]

_PARTICLES = 2  # that predictions are checked at, beside a draw from the prior


class Examined(NamedTuple):
    """What is known of a codebook and the certifying examples.

    Attributes:
        rows: keys of the examples; None where the data are not known.
        assumptions: what nothing has checked, in sentences.
        probes: indices of particles whose loss was evaluated by the plain model.
        means: their mean losses.
    """

    rows: Rows | None
    assumptions: tuple[str, ...]
    probes: Tensor
    means: Tensor

    def compare(self, losses: Losses, clip: bool) -> None:
        """Refuse a loss that was another one in the run of all particles.

        Args:
            losses: of all particles.
            clip: whether they were clamped.

        Raises:
            ModelError: it was.
        """
        if clip or not len(self.probes):
            return
        found = losses.mean[self.probes]
        # a few examples at a step of the loss may fall on either side
        slack = 1e-6 * (1 + self.means.abs()) + 0.01 + 1.0 / losses.n
        if bool(((found - self.means).abs() > slack * _span(self.means)).any()):
            raise ModelError(
                "the loss is another one each time it is evaluated",
                where="argument risk",
                found=f"means {found.tolist()} and {self.means.tolist()}",
                expected="one value for each prediction and target",
                todo="Let the loss and the model keep no state.",
            )


def _span(values: Tensor) -> Tensor:
    return values.abs().amax().clamp(min=1.0)


def leaves(codebook: Codebook) -> Iterator[tuple[int, Codebook]]:
    """Walk through the parts of a mixture, each with its first particle's index."""
    start = 0
    for part in codebook.parts or (codebook,):
        inner = leaves(part) if part.parts else [(0, part)]
        yield from ((start + offset, leaf) for offset, leaf in inner)
        start += len(part)


def check_status(codebook: Codebook, fixed_before_data: bool) -> tuple[str, ...]:
    """Refuse particles that no theorem covers.

    Args:
        codebook: the particles.
        fixed_before_data: whether the user states where those by hand come from.

    Returns:
        What is left to assume.

    Raises:
        NotProperlyWeightedError: their weights prove nothing.
    """
    status = codebook.status
    if status == "finite_sample":
        return ()
    if status == "unverified" and fixed_before_data:
        total = float(codebook.log_p.logsumexp(0).exp())
        found = f"weights that sum to {total:.6g}"
        check(total <= 1 + 1e-6, "codebook", found, "weights that sum to at most 1")
        return (
            f"The {len(codebook)} hypotheses and their weights were fixed without "
            "looking at the certifying examples.",
        )
    by_hand = status == "unverified"
    raise NotProperlyWeightedError(
        "these particles certify nothing",
        where="argument codebook",
        found=f"status {status!r}: "
        + (
            "put together by hand, or changed since a run made them"
            if by_hand
            else "their moves or weights do not leave the Gibbs posterior invariant"
        ),
        expected="a frozen annealed run, its extension by a frozen HMC, or "
        "importance draws",
        todo="Run GibbsPosterior and pass posterior.codebook()"
        + (
            "; for a finite set of hypotheses that were fixed before the data were "
            "seen, pass fixed_before_data=True."
            if by_hand
            else "; certify_plugin guarantees nothing."
        ),
    )


def check_unchanged(codebook: Codebook) -> None:
    """Refuse a model whose tensors are others than when the run began.

    Args:
        codebook: of one run.

    Raises:
        PriorDependsOnDataError: they were changed.
    """
    if codebook.origin is None or codebook.model is None:
        return
    before = dict(codebook.origin.brought)
    now = dict(tensor_digests(codebook.model.model))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise PriorDependsOnDataError(
            "the model has changed since the run",
            where=f"model {codebook.model.model_name!r}, {changed[0]}",
            found=f"{len(changed)} other values among what it brings along",
            expected="the values that the particles were fitted with",
            todo="Run again with the model as it is; call eval() on networks.",
        )


def examine(
    codebook: Codebook,
    risk: Callable[..., Tensor] | None,
    data: tuple[Any, ...] | None,
    losses: Tensor | None,
    *,
    reserved: PriorSplit | None,
    duplicates_drawn_independently: bool,
    fixed_before_data: bool,
) -> Examined:
    """Check where particles, rows, prior and predictions come from.

    Args:
        codebook: the particles.
        risk: what is certified.
        data: `(args, targets)` to certify on.
        losses: in place of both.
        reserved: the division that set these examples aside.
        duplicates_drawn_independently: a statement of the user.
        fixed_before_data: another.

    Returns:
        What was found.
    """
    left = list(check_status(codebook, fixed_before_data))
    rows, probes, means = None, [], []
    if data is not None:
        data = pair_of(data)
        examples = Examples.of(*data)
        rows = None if examples is None else examples.rows()
    for start, leaf in leaves(codebook):
        fitted = None if leaf.origin is None else leaf.origin.rows
        check_unchanged(leaf)
        if fitted is not None and rows is not None and data is not None:
            check_rows(rows, fitted, reserved)
        if fitted is not None and losses is not None:
            _check_count(losses, len(fitted.both))
            rows = fitted
        if leaf.model is None or leaf.target is None:
            continue
        own = leaf.model.inputs(leaf.target) if data is None else data
        index = _heaviest(leaf)
        q = torch.cat(
            [leaf.q[index], leaf.model.prior_draws(leaf.target, 1, 0).to(leaf.q)]
        )
        values = leaf.target.constrain(q)
        sites = [{n: v[i] for n, v in values.items()} for i in range(len(q))]
        found = audit(leaf.model, sites, own, risk, leaf.target.dtype)
        left += found.assumptions
        if found.means is not None:
            probes.append(start + index)
            means.append(found.means[: len(index)].to(torch.float64))
    if rows is not None:
        left += check_duplicates(rows, duplicates_drawn_independently)
    if losses is not None:
        left.append(
            "The losses passed are those of these particles on the certifying examples."
        )
    return Examined(
        rows,
        tuple(dict.fromkeys(left)),
        torch.cat(probes) if probes else torch.zeros(0, dtype=torch.long),
        torch.cat(means) if means else torch.zeros(0),
    )


def _heaviest(leaf: Codebook) -> Tensor:
    """The particles that count most, where they count at all."""
    weights = leaf.log_p if leaf.log_weights is None else leaf.log_weights
    weights = torch.where(leaf.alive, weights, -math.inf)
    count = min(_PARTICLES, int(leaf.alive.sum()))
    return weights.topk(count).indices


def _check_count(losses: Tensor, n: int) -> None:
    if losses.dim() == 2 and losses.shape[1] != n:
        raise ShapeError(
            "losses of other examples than those that were fitted",
            where="argument losses",
            found=tuple(losses.shape),
            expected=f"(particles, {n})",
            todo="Pass the loss at every example of the run.",
        )
