r"""The evidence of the reports as one operation, with gradients to all parameters.

A track of a thousand reports is a thousand steps, each a graph of hundreds of
operations. Traced whole it would be a graph that no compiler can take. Here it is one
opaque operation of torch with a backward and a rule for `vmap`: chains are an axis of
the parameters. Inside, the step and its derivative are on the ladder, and the states
between are made again in the backward, block by block, so that memory grows as the
square root of the number of steps.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._compat.torch import load_forward_mode, pytree
from pyro_geo._process import outside
from pyro_geo.density import Lifted, Rung
from pyro_geo.errors import UnsupportedError
from pyro_geo.filtering.tracker.belief import Belief, Parameters
from pyro_geo.filtering.tracker.runs import Runs

__all__ = ["Evidence", "TrackReports"]

_numbers = itertools.count()
_live: weakref.WeakValueDictionary[int, Evidence] = weakref.WeakValueDictionary()


class Evidence:
    """Log-evidence of tracks and its gradient, by steps on the ladder.

    Args:
        runs: configuration of the tracker.
        dtype: floating type.
        compile: whether steps are compiled. How many are to come is not known here,
            and a number of those so far would be no part of the state of a chain.
    """

    def __init__(self, runs: Runs, dtype: torch.dtype, compile: bool = False) -> None:
        load_forward_mode()
        self.runs, self.dtype = runs, dtype
        self.rung: Rung = "compiled" if compile else "traced"
        self.number = next(_numbers)
        self._step = Lifted(self._forward, name="the step of the tracker", dtype=dtype)
        self._back = Lifted(
            self._backward, name="the derivative of the tracker's step", dtype=dtype
        )
        _live[self.number] = self

    # -- functions on the ladder ------------------------------------------------------

    def _forward(self, data: Any, params: Any, belief: Any, *report: Tensor) -> Any:
        def step(params: Any, belief: Any) -> Any:
            after, info = self.runs.step(params, belief, *report)
            return after, info.log_evidence

        return torch.func.vmap(step)(params, belief)

    def _backward(
        self,
        data: Any,
        params: Any,
        belief: Any,
        y: Tensor,
        observed: Tensor,
        dt: Tensor,
        pull: Any,
        weight: Tensor,
    ) -> Any:
        """Pull gradients through one step: of the parameters, and of its belief."""
        moving = _apart(belief)[1]

        def step(params: Any, moving: Any) -> Any:
            after, nats = self._forward(
                data, params, _together(belief, moving), y, observed, dt
            )
            return _apart(after)[1], nats

        pulled: Any = torch.func.vjp(step, params, moving)
        return pulled[1]((pull, weight))

    # -- value and gradient -----------------------------------------------------------

    def value(self, params: Parameters, *reports: Tensor) -> Tensor:
        """Compute the evidence.

        Args:
            params: each with a leading axis of chains.
            *reports: `y` `(time, m, tracks)`, `observed` and `dt` `(time, tracks)`.

        Returns:
            `(chains, tracks)`.
        """
        total: Tensor | float = 0.0
        belief = self._begin(params, *reports)
        for row in zip(*reports, strict=True):
            belief, nats = self._go(self._step, params, belief, *row)
            total = total + nats
        return torch.as_tensor(total)

    def gradient(
        self, params: Parameters, weight: Tensor, *reports: Tensor
    ) -> Parameters:
        """Compute the gradient of a weighted sum of the evidence.

        Args:
            params: each with a leading axis of chains.
            weight: of each track, `(chains, tracks)`.
            *reports: as of :meth:`value`.

        Returns:
            Of each parameter.
        """
        steps = len(reports[0])
        length = math.isqrt(max(steps - 1, 0)) + 1
        belief = self._begin(params, *reports)
        starts = []
        for k, row in enumerate(zip(*reports, strict=True)):
            if k % length == 0:
                starts.append(belief)
            belief, _ = self._go(self._step, params, belief, *row)
        pull = tuple(map(torch.zeros_like, _apart(belief)[1]))
        grads = Parameters(*(torch.zeros_like(p) for p in params))
        for first in reversed(range(0, steps, length)):
            rows = list(zip(*(r[first : first + length] for r in reports), strict=True))
            beliefs = [starts[first // length]]
            for row in rows[:-1]:
                beliefs.append(self._go(self._step, params, beliefs[-1], *row)[0])
            for row, before in zip(reversed(rows), reversed(beliefs), strict=True):
                own, pull = self._go(self._back, params, before, *row, pull, weight)
                grads = Parameters(*map(torch.add, grads, own))
        return grads

    def _begin(self, params: Parameters, y: Tensor, *rest: Tensor) -> Belief:
        none = torch.zeros(y.shape[-1], dtype=torch.bool)
        return torch.func.vmap(lambda one: self.runs.init(one, y[0], none))(params)

    def _go(self, lifted: Lifted, *inputs: Any) -> Any:
        return lifted((), *inputs, rung=self.rung)


def _apart(belief: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Split the leaves of a belief into those without and with derivatives."""
    leaves = pytree.tree_leaves(belief)
    still = tuple(leaf for leaf in leaves if not leaf.dtype.is_floating_point)
    return still, tuple(leaf for leaf in leaves if leaf.dtype.is_floating_point)


def _together(belief: Any, moving: Sequence[Tensor]) -> Any:
    """Put other leaves with derivatives into a belief."""
    leaves, spec = pytree.tree_flatten(belief)
    rest = iter(moving)
    new = [next(rest) if leaf.dtype.is_floating_point else leaf for leaf in leaves]
    return pytree.tree_unflatten(new, spec)


# -- the operation --------------------------------------------------------------------


@torch.library.custom_op("pyro_geo::track_evidence", mutates_args=())
def _evidence_op(
    params: list[Tensor], y: Tensor, observed: Tensor, dt: Tensor, number: int
) -> Tensor:
    inputs = Parameters(*params), y, observed, dt
    return outside(_live[number].value, *inputs, grad=False)


@_evidence_op.register_fake
def _(
    params: list[Tensor], y: Tensor, observed: Tensor, dt: Tensor, number: int
) -> Tensor:
    return y.new_empty(params[0].shape[0], y.shape[-1])


@torch.library.custom_op("pyro_geo::track_evidence_gradient", mutates_args=())
def _gradient_op(
    params: list[Tensor],
    weight: Tensor,
    y: Tensor,
    observed: Tensor,
    dt: Tensor,
    number: int,
) -> list[Tensor]:
    inputs = Parameters(*params), weight, y, observed, dt
    found = outside(_live[number].gradient, *inputs, grad=False)
    return [grad.clone() for grad in found]


@_gradient_op.register_fake
def _(
    params: list[Tensor],
    weight: Tensor,
    y: Tensor,
    observed: Tensor,
    dt: Tensor,
    number: int,
) -> list[Tensor]:
    return [torch.empty_like(param) for param in params]


# A backward that is registered with an operation itself is unknown to torch.func. The
# two functions here are what its transforms map and trace.


class _Gradient(torch.autograd.Function):
    """The gradient of the evidence, which has no derivative itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(number: int, *tensors: Tensor) -> Any:
        """Compute the gradient of all parameters."""
        weight, y, observed, dt, *params = tensors
        ops = torch.ops.pyro_geo
        return tuple(
            ops.track_evidence_gradient(params, weight, y, observed, dt, number)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Any:
        """Refuse a second derivative."""
        raise UnsupportedError(
            "the evidence has no second derivatives",
            where="the evidence of a track",
            found="a derivative of its gradient",
            expected="first derivatives",
            todo="Use SVI or HMC, which need no more.",
        )


class _Evidence(torch.autograd.Function):
    """The evidence, `(chains, tracks)`, with its backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(number: int, *tensors: Tensor) -> Any:
        """Compute the evidence."""
        y, observed, dt, *params = tensors
        return torch.ops.pyro_geo.track_evidence(params, y, observed, dt, number)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the backward needs."""
        ctx.number = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Any:
        """Compute the gradient of all parameters."""
        inputs = (weights[0].contiguous(), *ctx.saved_tensors)
        grads: Any = _Gradient.apply(ctx.number, *inputs)
        return None, None, None, None, *grads


def _chained(params: Sequence[Tensor], dims: Sequence[int | None], size: int) -> list:
    """Make a mapped axis part of the leading axis of chains."""
    rows = []
    for param, dim in zip(params, dims, strict=True):
        row = param.expand(size, *param.shape) if dim is None else param.movedim(dim, 0)
        rows.append(row.flatten(0, 1).contiguous())
    return rows


def _refuse_mapped(dims: Sequence[int | None]) -> None:
    if any(dim is not None for dim in dims):
        raise UnsupportedError(
            "reports cannot be mapped",
            where="the evidence of a track",
            found="vmap over reports",
            expected="vmap over parameters",
            todo="Pass all tracks at once: they are an axis of the reports.",
        )


@_evidence_op.register_vmap
def _(info: Any, in_dims: Any, params: Any, *rest: Any) -> tuple[Tensor, int]:
    _refuse_mapped([dim for dim in in_dims[1:] if dim is not None])
    size = info.batch_size
    flat = _chained(params, in_dims[0], size)
    value = torch.ops.pyro_geo.track_evidence(flat, *rest)
    return value.unflatten(0, (size, -1)), 0


@_gradient_op.register_vmap
def _(
    info: Any, in_dims: Any, params: Any, weight: Tensor, *rest: Any
) -> tuple[list[Tensor], list[int]]:
    _refuse_mapped([dim for dim in in_dims[2:] if dim is not None])
    size = info.batch_size
    flat = _chained(params, in_dims[0], size)
    (own,) = _chained([weight], [in_dims[1]], size)
    grads = torch.ops.pyro_geo.track_evidence_gradient(flat, own, *rest)
    return [grad.unflatten(0, (size, -1)) for grad in grads], [0] * len(flat)


# -- the distribution -----------------------------------------------------------------


class TrackReports(TorchDistribution):
    """Reports of tracks, all at once: its log-density is their log-evidence.

    Args:
        evidence: of the tracker.
        params: its numbers, which may have gradients.
        observed: whether there is a report, `(tracks, time)`.
        dt: time since the report before, `(tracks, time)`.
        size: numbers in a report.
    """

    def __init__(
        self,
        evidence: Evidence,
        params: Parameters,
        observed: Tensor,
        dt: Tensor,
        size: int,
    ) -> None:
        self.evidence, self.params = evidence, params
        self.observed, self.dt = observed, dt
        tracks, steps = observed.shape
        event = torch.Size([steps, size])
        super().__init__(torch.Size([tracks]), event, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """None: the numbers of a tracker are checked where it is made."""
        return {}

    @property
    def support(self) -> Any:
        """All reports; missing ones are NaN."""
        return constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TrackReports:
        """Return this distribution, which has the batch of its tracks and no other.

        Args:
            batch_shape: that of the tracks.

        Returns:
            The same distribution.

        Raises:
            UnsupportedError: another batch.
        """
        if torch.Size(batch_shape) != self.batch_shape:
            raise UnsupportedError(
                "the reports of tracks have one batch",
                where="TrackReports.expand",
                found=tuple(batch_shape),
                expected=tuple(self.batch_shape),
                todo="Filter more tracks, instead of expanding the distribution.",
            )
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-evidence of each track.

        Args:
            value: reports, `(tracks, time, m)`.

        Returns:
            `(tracks,)`.
        """
        y = torch.where(self.observed[..., None], value, 0.0).permute(1, 2, 0)
        params = [param[None].to(y.dtype) for param in self.params]
        reports = (y.contiguous(), self.observed.T.contiguous())
        dt = self.dt.to(y.dtype).T.contiguous()
        values = _Evidence.apply(self.evidence.number, *reports, dt, *params)
        return torch.as_tensor(values)[0]
