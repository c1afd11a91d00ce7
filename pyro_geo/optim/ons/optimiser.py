"""Online Newton steps whose memory has few eigenvectors, as a torch optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number, check_shape
from pyro_geo.errors import (
    MissingGradientLogError,
    NonFiniteStateError,
    SparseGradientError,
)
from pyro_geo.geometry.matrices import LowRank
from pyro_geo.optim.ons.memory import Lost, Memory, Removed, add, empty, remove

__all__ = ["EigenONS", "Entry"]


class Entry(NamedTuple):
    """What one step has added.

    Attributes:
        step: number of the step, from 1.
        columns: `(dim, m)`.
    """

    step: int
    columns: Tensor


class EigenONS(torch.optim.Optimizer):
    r"""Online Newton Step with a memory of `rank` eigenvectors above a floor.

    .. math:: M_t = \beta M_{t-1} + (1 - \beta) G_t G_t^\top, \qquad
              \theta_t = \theta_{t-1} - \eta M_t^{-1} g_t

    without an average (`beta=None`) :math:`M_t = M_{t-1} + G_t G_t^\top`. The floor
    :math:`\delta` does not decay. `G` is the gradient, or with `statistic="ggn"` the
    columns given to :meth:`step`: with squared loss and `lr=1` the steps are then
    recursive least squares, whose point is the ridge estimate of penalty `floor`.

    All parameters share one memory, so use it with a loss of all of them, such as
    `Trace_ELBO().differentiable_loss`; `PyroOptim` makes one optimiser per parameter
    and a memory that knows no correlations between them.

    Args:
        params: parameters, or groups of them that may have learning rates of their own.
        lr: learning rate, the inverse of :math:`\gamma` of the literature.
        rank: number of eigenvectors kept.
        floor: :math:`\delta`, the curvature before any data.
        beta: weight of the past in a moving average; None to add everything up.
        lost: `"drop"`, or `"rfd"` to raise the floor for eigenvalues that are cut off.
        statistic: `"grad"` or `"ggn"`.
        log: which columns to write down, so that they can be taken out again: `"none"`,
            `"tagged"` for those of steps with a tag, or `"all"`. Costs `dim` numbers
            for each column.

    References:
        Hazan, Agarwal and Kale (2007), Logarithmic regret algorithms for online convex
        optimization. Luo et al. (2019), Robust Frequent Directions with application in
        online learning, arXiv 1705.05067.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = EigenONS([weight], rank=1)
        >>> (weight[0] - 3).square().backward()
        >>> optimizer.step()
        >>> round(weight[0].item(), 4)
        0.1622
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        rank: int = 64,
        floor: float = 1.0,
        beta: float | None = None,
        lost: Lost = "drop",
        statistic: Literal["grad", "ggn"] = "grad",
        log: Literal["none", "tagged", "all"] = "none",
    ) -> None:
        check_number("lr", lr)
        check_count("rank", rank)
        check_number("floor", floor, strict=True)
        check_number("beta", beta, 0.0, 1.0)
        check_choice("lost", lost, ("drop", "rfd"))
        check_choice("statistic", statistic, ("grad", "ggn"))
        check_choice("log", log, ("none", "tagged", "all"))
        super().__init__(params, {"lr": lr})
        self.rank, self.floor, self.beta = rank, floor, beta
        self.lost: Lost = lost
        self.statistic, self.log = statistic, log
        self.steps = 0
        self.entries: dict[Hashable, list[Entry]] = {}
        first = self._params()[0]
        self.memory: Memory = empty(self.dim, floor, first.device)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._params())

    def matrix(self) -> LowRank:
        """The memory as a positive-definite matrix, in the order of the parameters."""
        return self.memory.matrix()

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        factor: Tensor | None = None,
        tag: Hashable = None,
    ) -> Any:
        """Add to the memory, then move the parameters.

        Args:
            closure: computes the loss and its gradients again.
            factor: columns to add, `(dim, m)`, with `statistic="ggn"`; see
                :func:`~pyro_geo.optim.ons.factors.ggn_factor`.
            tag: name of the data in this step, under which its columns are written
                down; several steps may share one. The number of the step if None.

        Returns:
            What the closure has returned.

        Raises:
            NonFiniteStateError: a gradient or a column is NaN or infinite; parameters
                and memory are left as they were.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            gradient = self._gradient()
            columns = gradient[:, None]
            if self.statistic == "ggn":
                check(factor is not None, "factor", None, "columns of statistic 'ggn'")
                columns = columns if factor is None else factor
                check_shape(
                    "factor",
                    columns.shape,
                    f"({self.dim}, m)",
                    len(columns) == self.dim,
                )
            for name, value in (("gradient", gradient), ("factor", columns)):
                if not bool(value.isfinite().all()):
                    raise NonFiniteStateError(
                        "a step with numbers that are not finite",
                        where=f"{name} of step {self.steps + 1}",
                        found="NaN or infinity",
                        expected="finite numbers",
                        todo="Leave this step out, or clip what made it.",
                    )
            self._learn(columns.to(self.memory.vectors), tag)
            self._move(self.memory.solve(gradient))
        return loss

    def remove(
        self,
        tags: Iterable[Hashable],
        *,
        allow_clip: bool = False,
        clip_tol: float = 1e-6,
    ) -> float:
        """Take what steps have added out of the memory, at the weight it still has.

        It takes out the direct part alone: later gradients, which were taken where the
        removed data had led, stay. Parameters are not moved.

        Args:
            tags: of the steps.
            allow_clip: whether a truncated memory may be clipped at zero.
            clip_tol: share of the trace that may be clipped anyway.

        Returns:
            What was clipped. Steps that were not written down, or not since the last
            change of the memory from outside, are a
            :class:`~pyro_geo.errors.MissingGradientLogError`, columns that the memory
            does not hold a :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
        """
        tags = list(dict.fromkeys(tags))
        found = self.without(tags, allow_clip=allow_clip, clip_tol=clip_tol)
        self.replace(found.memory, tags)
        return found.clipped

    def without(
        self,
        tags: Iterable[Hashable],
        *,
        allow_clip: bool = False,
        clip_tol: float = 1e-6,
    ) -> Removed:
        """Compute what :meth:`remove` would leave, and change nothing.

        Args:
            tags: of the steps.
            allow_clip: whether a truncated memory may be clipped at zero.
            clip_tol: share of the trace that may be clipped anyway.

        Returns:
            The rest, and what was clipped. Columns that the memory does not hold are a
            :class:`~pyro_geo.errors.NotPositiveDefiniteError`.

        Raises:
            MissingGradientLogError: a tag was not written down.
        """
        tags = list(dict.fromkeys(tags))
        missing = [tag for tag in tags if tag not in self.entries]
        if missing:
            raise MissingGradientLogError(
                "steps were not written down",
                where=f"tags {missing[:5]}",
                found=f"log={self.log!r} with {len(self.entries)} tags",
                expected="every tag that is to be removed",
                todo="Make the optimiser with log='tagged' or 'all', and pass tag= to "
                "its steps. A treatment empties the log, so remove before it; or "
                "rebuild the memory with Refresh.",
            )
        columns = [
            entry.columns * self._weight(entry.step) ** 0.5
            for tag in tags
            for entry in self.entries[tag]
        ]
        if not columns:
            return Removed(self.memory, 0.0)
        return remove(
            self.memory,
            torch.cat(columns, 1),
            clip_tol=clip_tol,
            allow_clip=allow_clip,
        )

    def replace(self, memory: Memory, gone: Iterable[Hashable] | None = None) -> None:
        """Put another memory in the place of what steps have added.

        Args:
            memory: of as many rows.
            gone: tags of the steps that are no longer in it at their old weight, whose
                columns are struck off the log; all if None.
        """
        check_shape("memory", (memory.dim,), (self.dim,))
        self.memory = memory
        for tag in list(self.entries) if gone is None else gone:
            del self.entries[tag]

    def reset(self) -> None:
        """Empty the memory and what was written down; parameters stay."""
        self.memory = empty(self.dim, self.floor, self.memory.vectors.device)
        self.entries.clear()
        self.steps = 0

    def __getstate__(self) -> dict[str, Any]:
        own = ("rank", "floor", "beta", "lost", "statistic", "log", "steps")
        more = {name: getattr(self, name) for name in (*own, "memory", "entries")}
        return {**super().__getstate__(), **more}

    def state_dict(self) -> dict[str, Any]:
        """Give the state with the memory, for :meth:`load_state_dict`."""
        own = {"memory": self.memory, "steps": self.steps, "entries": self.entries}
        return {**super().state_dict(), "ons": copy.deepcopy(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state with its memory."""
        own = state_dict["ons"]
        rest = {name: part for name, part in state_dict.items() if name != "ons"}
        super().load_state_dict(rest)
        check_shape("state_dict", (own["memory"].dim,), (self.dim,))
        device = self._params()[0].device
        self.memory = Memory(*(x.to(device, copy=True) for x in own["memory"]))
        self.steps = own["steps"]
        self.entries = {
            tag: [Entry(e.step, e.columns.to(device, copy=True)) for e in entries]
            for tag, entries in own["entries"].items()
        }

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _gradient(self) -> Tensor:
        rows = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self._params()
        ]
        if any(row.is_sparse for row in rows):
            raise SparseGradientError(
                "a gradient is sparse",
                where="a step of EigenONS",
                found="a sparse tensor",
                expected="dense gradients",
                todo="Make the embedding with sparse=False.",
            )
        return torch.cat([row.reshape(-1) for row in rows]).double()

    def _weight(self, step: int) -> float:
        """Weight that what a step has added still has in the memory."""
        if self.beta is None:
            return 1.0
        return (1 - self.beta) * self.beta ** (self.steps - step)

    def _learn(self, columns: Tensor, tag: Hashable) -> None:
        self.steps += 1
        memory, scale = self.memory, 1.0
        if self.beta is not None:
            memory = memory._replace(values=self.beta * memory.values)
            scale = (1 - self.beta) ** 0.5
        self.memory = add(memory, scale * columns, self.rank, self.lost)
        if self.log == "all" or (self.log == "tagged" and tag is not None):
            name = self.steps if tag is None else tag
            entry = Entry(self.steps, columns.clone())
            self.entries.setdefault(name, []).append(entry)

    def _move(self, direction: Tensor) -> None:
        start = 0
        for group in self.param_groups:
            for p in group["params"]:
                part = direction[start : start + p.numel()].reshape(p.shape)
                p.add_(part.to(p.dtype), alpha=-group["lr"])
                start += p.numel()
