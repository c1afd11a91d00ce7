r"""Treatments: what is done to an optimiser's memory after a deletion.

A treatment acts once, when data have been deleted (`start`), or again and again while
training goes on (`after_step`). It changes the memory above its floor, and with it all
that an optimiser computes from it or keeps beside it: the bases and second moments of
SOAP, the cached roots of Shampoo, averages of gradients. A cache that is left behind
brings the residue back.

:class:`~pyro_geo.unlearning.data_treatments.Downdate`,
:class:`~pyro_geo.unlearning.data_treatments.Refresh` and
:class:`~pyro_geo.unlearning.data_treatments.ProjectForget` need gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.geometry.kronecker import Block
from pyro_geo.geometry.spectra import effective_rank, floored, trace
from pyro_geo.unlearning._buffers import Buffers
from pyro_geo.unlearning._finding import base_groups, buffers_of
from pyro_geo.unlearning._pieces import Which, perturb, shrink, truncate

__all__ = [
    "Decay",
    "Perturb",
    "Reset",
    "Row",
    "Shrink",
    "Treatment",
    "Truncate",
    "Untreated",
    "policies_of",
]

_RECORD = "treatments"  # in the groups, so that copies and saved states know it


class Row(NamedTuple):
    """What a memory is like after a treatment.

    Attributes:
        treatment: its policy.
        step: steps since the deletion.
        metrics: name to value: `trace`, `effective_rank`, `logdet` with the floor of
            audits, and `clipped`, what a subtraction had to set to zero.
    """

    treatment: str
    step: int
    metrics: dict[str, float]


class Treatment:
    """A change of an optimiser's memory.

    A subclass overrides `apply`, or `after_step` for one that goes on.
    """

    @property
    def policy(self) -> str:
        """Name with options: a counterfactual must have been treated by the same."""
        return repr(self)

    def matched(self) -> Treatment:
        """The treatment of a counterfactual that makes it comparable."""
        return self

    def start(self, optimizer: Any) -> Row:
        """Treat once, at the deletion.

        Args:
            optimizer: changed in place.

        Returns:
            The memory afterwards. A buffer that is not finite is a
            :class:`~pyro_geo.errors.NonFiniteStateError` before anything is changed.
        """
        buffers = buffers_of(optimizer)
        with torch.no_grad():
            clipped = self.apply(buffers)
        for group in base_groups(optimizer):
            group[_RECORD] = (*group.get(_RECORD, ()), self.policy)
        return self.row(optimizer, 0, clipped)

    def after_step(self, optimizer: Any, step: int) -> Row | None:
        """Treat after a step of training.

        Args:
            optimizer: changed in place.
            step: steps since the deletion, from 1.

        Returns:
            The memory afterwards; None where nothing is due.
        """
        return None

    def apply(self, buffers: list[Buffers]) -> float:
        """Change the buffers; returns what was clipped."""
        return 0.0

    def row(self, optimizer: Any, step: int, clipped: float = 0.0) -> Row:
        """Describe the memory of an optimiser.

        Args:
            optimizer: left as it is.
            step: steps since the deletion.
            clipped: what a subtraction has set to zero.

        Returns:
            The description.
        """
        parts = {one.name: one.matrix() for one in buffers_of(optimizer)}
        raised = floored(Block(parts))
        metrics = {
            "trace": trace(Block(parts)),
            "effective_rank": effective_rank(raised),
            "logdet": float(raised.logdet()),
            "clipped": clipped,
        }
        return Row(self.policy, step, metrics)


@dataclass(frozen=True)
class Untreated(Treatment):
    """Leave the memory alone, under the policy of another treatment if one is named.

    Attributes:
        name: the policy.
    """

    name: str = "none"

    @property
    def policy(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True)
class Reset(Treatment):
    """Throw the memory away: the optimiser starts as a new one.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.Adagrad([weight])
        >>> weight.grad = torch.ones(2)
        >>> optimizer.step()
        >>> Reset().start(optimizer).metrics["trace"]
        0.0
    """

    def apply(self, buffers: list[Buffers]) -> float:
        """Empty all buffers, counters of steps among them."""
        for one in buffers:
            one.reset()
        return 0.0


@dataclass(frozen=True)
class Shrink(Treatment):
    r"""Give all that was added a smaller weight, :math:`s \leftarrow (1 - \rho) s`.

    Averages of gradients are multiplied too where all eigenvalues are: what was seen
    before the deletion has the weight `1 - rho` in both.

    Attributes:
        rho: from 0, which changes nothing, to 1.
        which: `"all"` eigenvalues, the `"top"` or the `"tail"`.
        fraction: share of the eigenvalues that are the top.
    """

    rho: float
    which: Which = "all"
    fraction: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.rho <= 1, "rho", self.rho, "from 0 to 1")
        check_choice("which", self.which, ("all", "top", "tail"))
        check(0 < self.fraction <= 1, "fraction", self.fraction, "above 0, at most 1")

    def apply(self, buffers: list[Buffers]) -> float:
        """Multiply eigenvalues and averages."""
        for one in buffers:
            one.treat(lambda _, p: shrink(p, self.rho, self.which, self.fraction))
            if self.which == "all":
                one.scale_momenta(1 - self.rho)
        return 0.0


@dataclass(frozen=True)
class Decay(Shrink):
    r"""Shrink the memory again and again while training goes on: eigendecay.

    After `k` times the weight of what was there is :math:`(1 - \rho)^k`.

    Attributes:
        rho: of each time.
        which: `"all"` eigenvalues, the `"top"` or the `"tail"`.
        fraction: share of the eigenvalues that are the top.
        every: steps from one time to the next.
    """

    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("every", self.every)

    def apply(self, buffers: list[Buffers]) -> float:
        """Do nothing yet."""
        return 0.0

    def after_step(self, optimizer: Any, step: int) -> Row | None:
        """Shrink, when it is time."""
        if step % self.every:
            return None
        with torch.no_grad():
            Shrink.apply(self, buffers_of(optimizer))
        return self.row(optimizer, step)


@dataclass(frozen=True)
class Truncate(Treatment):
    """Keep the largest eigenvalues: of each factor, or of a diagonal.

    Attributes:
        k: how many.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k, 0)

    def apply(self, buffers: list[Buffers]) -> float:
        """Set the rest to zero, and averages of gradients."""
        for one in buffers:
            one.treat(lambda _, piece: truncate(piece, self.k))
            one.scale_momenta(0.0)
        return 0.0


@dataclass(frozen=True)
class Perturb(Treatment):
    r"""Multiply the memory with noise, :math:`S^{1/2} e^{\sigma W} S^{1/2}`.

    `W` is symmetric with normal entries. This hides, it does not delete; averages of
    gradients stay.

    Attributes:
        sigma: size of the noise, in nats.
        seed: of the noise.
    """

    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma)

    def apply(self, buffers: list[Buffers]) -> float:
        """Multiply every factor with noise of its own."""
        generator = torch.Generator().manual_seed(self.seed)
        for one in buffers:
            one.treat(lambda _, piece: perturb(piece, self.sigma, generator))
        return 0.0


def policies_of(optimizer: Any) -> tuple[str, ...]:
    """List the treatments that an optimiser has had, in their order.

    Copies and saved states of optimisers know them too.

    Args:
        optimizer: any that has a memory.

    Returns:
        Policies; those of :class:`Untreated` without a name are left out.

    Example:
        >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
        >>> row = Reset().start(optimizer)
        >>> policies_of(optimizer)
        ('Reset()',)
    """
    found = base_groups(optimizer)[0].get(_RECORD, ())
    return tuple(policy for policy in found if policy != "none")
