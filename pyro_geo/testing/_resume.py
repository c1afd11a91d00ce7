"""The contract of a run that is stopped and gone on with."""

from __future__ import annotations

import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import torch

from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.infer.mcmc.runner import MCMC

if TYPE_CHECKING:
    from pyro_geo.testing.contracts import Case

__all__ = ["check_resume"]

_BLOCKS = 3  # of draws


class _Stopped(Exception):
    """The kernel was called for more blocks than the test allows."""


def check_resume(case: Case) -> None:
    """A run that was stopped and resumed equals one that never was, bit for bit.

    It is stopped after its first, its middle and its last but one block of warm-up or
    of draws, so the kernel's states must go through a store unharmed.

    Args:
        case: the case.

    Raises:
        AssertionError: it does not.
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
        for name, value in {"positions": expected.positions, **expected.stats}.items():
            again = {"positions": resumed.positions, **resumed.stats}[name]
            if not torch.equal(again.nan_to_num(), value.nan_to_num()):
                raise AssertionError(f"{stopped}: broken contract: {name}: equal bits")
        for name in ("num_steps", "num_gradients", "warmup_num_steps", "rung"):
            pair = getattr(resumed, name), getattr(expected, name)
            if pair[0] != pair[1]:
                raise AssertionError(
                    f"{stopped}: broken contract: {name}: found {pair[0]}, "
                    f"expected {pair[1]}"
                )


def _run(case: Case, kernel: Any, *, resume: bool = False, **options: Any) -> MCMC:
    settings = {"seed": case.seed, "progress_bar": False, "compile": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MCMC(kernel, case.draws, case.warmup, case.chains, **(settings | options))
        return fit.resume() if resume else fit.run()


def _limited(case: Case, most: int | None) -> tuple[Any, list[int]]:
    """The kernel with short blocks, which stops at a number of them and counts."""
    kernel: Any = case.kernel(case.target)
    calls = [0]

    def count() -> None:
        if calls[0] == most:
            raise _Stopped
        calls[0] += 1

    class Limited(type(kernel)):
        def block_draws(self, *args: Any) -> int:
            return -(-case.draws // _BLOCKS)

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
