"""The contracts of a run that is stopped and gone on with, and of one made longer."""

from __future__ import annotations

import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import torch

from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.infer.mcmc.runner import MCMC

if TYPE_CHECKING:
    from pyro_geo.testing.contracts import Case

__all__ = ["check_longer", "check_resume"]

_BLOCKS = 3  # of draws
_LENGTH = 4  # of a block, in draws, where runs end in the middle of one
_LENGTHS = (1, 3, 7)  # of a run that is made longer and longer
# The same in blocks of the kernel's own length. Some code rounds otherwise on fewer
# than 16 lanes; such a run of DIMS is refused, so that this one has more.
_OWN_LENGTHS = (6, 9)


class _Stopped(Exception):
    """The kernel was called for more blocks than the test allows."""


def check_resume(case: Case) -> None:
    """A run that was stopped and resumed equals one that never was, bit for bit.

    It is stopped after its first, its middle and its last but one block of warm-up or
    of draws, so the kernel's states must go through a store unharmed.

    Args:
        case: the case. A difference is an `AssertionError`.
    """
    kernel, calls = _limited(case, None)
    expected = _run(case, kernel)
    total = calls[0]
    for stop in sorted({1, total // 2, total - 1} - {0, total}):
        with tempfile.TemporaryDirectory() as folder:
            store = f"{folder}/run.zarr"
            kernel, _ = _limited(case, stop)
            try:
                _run(case, kernel, store=store)
            except _Stopped:
                pass
            resumed = _run(case, _limited(case, None)[0], resume=True, store=store)
        stopped = f"{case.name}: stopped after {stop} of {total} blocks"
        _check_same(stopped, resumed, expected)


def check_longer(case: Case) -> None:
    """A run that is made longer equals one that was so long at once, bit for bit.

    It ends in the middle of a block time and again: with blocks of four draws, and
    with those of the kernel's own length.

    Args:
        case: the case. A difference is an `AssertionError`.
    """
    for length, lengths in ((_LENGTH, _LENGTHS), (None, _OWN_LENGTHS)):

        def kernel(length: int | None = length) -> Any:
            return _limited(case, None, length)[0]

        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"store": f"{folder}/run.zarr"}
            fit = _run(case, kernel(), draws=lengths[0], **options)
            for draws in lengths[1:]:
                fit = _run(case, kernel(), draws=draws, resume=True, **options)
        expected = _run(case, kernel(), draws=lengths[-1])
        blocks = "its own blocks" if length is None else f"blocks of {length} draws"
        _check_same(f"{case.name}: made longer in {blocks}", fit, expected)


def _check_same(what: str, fit: MCMC, expected: MCMC) -> None:
    for name, value in {"positions": expected.positions, **expected.stats}.items():
        again = {"positions": fit.positions, **fit.stats}[name]
        if not torch.equal(again.nan_to_num(), value.nan_to_num()):
            raise AssertionError(f"{what}: broken contract: {name}: equal bits")
    for name in ("num_steps", "num_gradients", "warmup_num_steps", "rung"):
        pair = getattr(fit, name), getattr(expected, name)
        if pair[0] != pair[1]:
            raise AssertionError(
                f"{what}: broken contract: {name}: found {pair[0]}, expected {pair[1]}"
            )


def _run(
    case: Case,
    kernel: Any,
    *,
    draws: int | None = None,
    resume: bool = False,
    **options: Any,
) -> MCMC:
    settings = {"seed": case.seed, "progress_bar": False, "compile": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = draws or case.draws, case.warmup, case.chains
        fit = MCMC(kernel, *counts, **(settings | options))
        return fit.resume() if resume else fit.run()


def _limited(
    case: Case, most: int | None, length: int | None = 0
) -> tuple[Any, list[int]]:
    """The kernel with short blocks, which stops at a number of them and counts.

    Args:
        case: the case.
        most: blocks, and starts, that it makes; None for all.
        length: draws in a block; 0 for a third of the case's, None for the kernel's
            own.

    Returns:
        The kernel, and a list whose only entry counts the blocks.
    """
    kernel: Any = case.kernel(case.target)
    calls = [0]

    def count() -> None:
        if calls[0] == most:
            raise _Stopped
        calls[0] += 1

    class Limited(type(kernel)):
        def block_draws(self, *args: Any) -> int:
            if length is None:
                return super().block_draws(*args)
            return length or -(-case.draws // _BLOCKS)

        def start(self, *args: Any, **kwargs: Any) -> Warmup:
            count()
            return super().start(*args, **kwargs)

        def adapt(self, *args: Any) -> Warmup:
            count()
            return super().adapt(*args)

        def block(self, *args: Any) -> Block:
            count()
            return super().block(*args)

    Limited.__name__ = type(kernel).__name__
    kernel.__class__ = Limited
    return kernel, calls
