"""Any number of trajectories on a fixed number of lanes.

A compiled step has its batch size baked in, and another batch size changes last
digits. So the number of lanes never changes: a finished trajectory is written to its
row of the result and a waiting one takes its lane; when none waits, the lane stays
frozen. Lanes do not depend on each other, so which lane a trajectory gets, and when,
does not change its numbers.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check, check_count

__all__ = ["column", "dot", "map_lanes", "run_lanes"]

State = TypeVar("State")
Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")

# Finished lanes are refilled once they are this share of all. With many lanes one
# finishes at almost every step, and refilling costs as much as several small steps.
REFILL_SHARE = 1 / 8


def column(x: Tensor) -> Tensor:
    """Give a tensor of the lanes, `(lanes,)`, an axis to broadcast over `dim`."""
    return x.unsqueeze(-1)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Multiply lane by lane, `(lanes, dim)` with `(lanes, dim)` to `(lanes,)`."""
    return (x * y).sum(-1)


def map_lanes(fn: Callable[[Inputs], Outputs], rows: Inputs, num_lanes: int) -> Outputs:
    """Apply a batched function to any number of rows, always `num_lanes` at a time.

    Args:
        fn: function of a tree of tensors with leading axis `num_lanes`, to such a
            tree, whose rows are independent.
        rows: any tree of tensors with leading axis `n`, at least 1.
        num_lanes: rows per call; the last call is filled up with the first row.

    Returns:
        The outputs with leading axis `n`, in order.

    Example:
        >>> map_lanes(lambda x: 2 * x, torch.arange(5), 2)
        tensor([0, 2, 4, 6, 8])
    """
    leaves, spec = pytree.tree_flatten(rows)
    n = len(leaves[0])
    calls = -(-n // num_lanes)
    index = torch.arange(calls * num_lanes, device=leaves[0].device)
    outputs = []
    for chunk in torch.where(index < n, index, 0).split(num_lanes):
        taken = [leaf.index_select(0, chunk) for leaf in leaves]
        outputs.append(pytree.tree_flatten(fn(pytree.tree_unflatten(taken, spec))))
    columns = zip(*(flat for flat, _ in outputs), strict=True)
    return pytree.tree_unflatten([torch.cat(c)[:n] for c in columns], outputs[0][1])


def run_lanes(
    step: Callable[[State], State],
    queue: State,
    num_lanes: int,
    *,
    active: Callable[[State], Tensor],
    check_every: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> State:
    """Run a queue of trajectories to their ends on a fixed number of lanes.

    Args:
        step: advances all lanes; a lane that is not active must come back bitwise
            unchanged, and every lane must stop being active at some time.
        queue: the starts, any tree of tensors with leading axis `n`.
        num_lanes: trajectories in flight. With fewer than that in the queue, the
            lanes left over repeat its first row and are ignored.
        active: says which lanes are under way, `(num_lanes,)` boolean.
        check_every: steps between two checks of which lanes have finished.
        on_progress: called with the numbers of finished and of all trajectories,
            whenever more have finished.

    Returns:
        The final states in the order of the queue, a tree like `queue`; `queue`
        itself is left untouched.

    Example:
        >>> start = torch.tensor([3, 1, 2, 5])
        >>> run_lanes(
        ...     lambda x: torch.where(x > 0, x - 1, x),
        ...     start,
        ...     2,
        ...     active=lambda x: x > 0,
        ... )
        tensor([0, 0, 0, 0])
    """
    waiting, spec = pytree.tree_flatten(queue)
    n = len(waiting[0]) if waiting else 0
    check_count("num_lanes", num_lanes)
    check_count("check_every", check_every)
    check(n > 0, "queue", f"{n} rows", "at least one")
    device = waiting[0].device
    lanes = torch.arange(num_lanes, device=device)
    owned = lanes < n  # lanes with a trajectory of their own
    owner = torch.where(owned, lanes, 0)  # its row in the queue
    state: State = pytree.tree_unflatten(
        [leaf.index_select(0, owner) for leaf in waiting], spec
    )
    done = [torch.empty_like(leaf) for leaf in waiting]
    started, finished = min(n, num_lanes), 0
    enough = max(1, int(REFILL_SHARE * num_lanes))
    with torch.no_grad():
        while True:
            for _ in range(check_every):
                state = step(state)
            under_way = active(state) & owned
            running = int(under_way.count_nonzero())
            if started - running > finished:
                finished = started - running
                if on_progress is not None:
                    on_progress(finished, n)
            if started == n:
                if running == 0:
                    break
                continue
            if num_lanes - running < enough:
                continue
            # All lanes are owned here: only a short queue leaves some without.
            idle = (~under_way).nonzero().squeeze(-1)[: n - started]
            stop = started + len(idle)
            leaves = pytree.tree_leaves(state)
            # All lanes at once: what is not final is written again later, and this
            # is one operation per leaf less than picking the finished ones.
            for result, leaf in zip(done, leaves, strict=True):
                result.index_copy_(0, owner, leaf)
            # Out of place: a step may return one tensor as two leaves.
            state = pytree.tree_unflatten(
                [
                    leaf.index_copy(0, idle, starts[started:stop])
                    for leaf, starts in zip(leaves, waiting, strict=True)
                ],
                spec,
            )
            owner[idle] = torch.arange(started, stop, device=device)
            started = stop
    last = owned.nonzero().squeeze(-1)
    for result, leaf in zip(done, pytree.tree_leaves(state), strict=True):
        result.index_copy_(0, owner[last], leaf.index_select(0, last))
    return pytree.tree_unflatten(done, spec)
