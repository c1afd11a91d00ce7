"""A block kernel as `pyro.infer.MCMC` wants it: one chain, one draw at a time."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyro_geo.density import AUTO_COMPILE_STEPS, Target
from pyro_geo.engine._warmup import warm_up
from pyro_geo.engine.kernel import Block, BlockKernel, Warmup
from pyro_geo.engine.noise import Noise

__all__ = ["PyroKernel"]


class PyroKernel(MCMCKernel):
    """The members that Pyro asks for, on top of those of a block kernel.

    Blocks are made ahead and served draw by draw. A subclass is a block kernel and
    names the start, the draws of a block and the statistic that the bar shows.
    """

    buffer: int = 50
    shown_stat: str = "lp"

    transforms: dict[str, Any] | None
    _start: dict[str, Tensor] | None
    _target: Target | None
    _warming: Iterator[Warmup] | None
    _warm: Warmup | None
    _state: Any
    _seed: int
    _warmup_steps: int
    _calls: int
    _steps: int
    _blocks: list[Block]
    _served: int

    def first_position(self, target: Target) -> Tensor:
        """Start of a chain that is given none, `(1, dim)`, by the global generator."""
        raise NotImplementedError

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Build the density and draw this chain's key from the global generator."""
        start = self._start
        self._forget()
        self._warmup_steps = warmup_steps
        self._target = self._kernel.make_target(*args, **kwargs)
        self._seed = int(torch.randint(2**62, ()))
        self.transforms = {
            name: site.transform.inv for name, site in self._target.layout.sites.items()
        }
        if start is None:
            q = self.first_position(self._target)
            start = self._target.layout.unflatten(q[0])
        self._start = start

    @property
    def initial_params(self) -> dict[str, Tensor] | None:
        """Unconstrained start."""
        return self._start

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Serve the next draw; during warm-up the start is handed back.

        Args:
            params: unconstrained values.

        Returns:
            Unconstrained values of one draw.
        """
        assert self._target is not None
        if self._warming is None:
            self._warming = self._warm_up(self._target, params)
            self._warm = next(self._warming)
        assert self._warm is not None
        self._calls += 1
        if self._calls <= self._warmup_steps:
            if not self._warm.finished and self._calls > self._warm.iterations:
                self._advance()
            return params
        while not self._warm.finished:
            self._advance()
        index, row = divmod(self._served, self.buffer)
        if index == len(self._blocks):
            self._fill(self._target)
        self._served += 1
        return self._target.layout.unflatten(self._blocks[index].q[0, row])

    def diagnostics(self) -> dict[str, Any]:
        """Indices of divergent draws, and what else the kernel has to say."""
        stats = self._served_stats()
        if not stats:
            return {"divergences": []}
        batched = {name: value[None] for name, value in stats.items()}
        for warning in self._kernel.review([self._state], batched):
            warnings.warn(warning, stacklevel=2)
        return {
            "divergences": stats["diverging"].nonzero().flatten().tolist(),
            **self._figures(stats),
        }

    def logging(self) -> Any:
        """One statistic of the last draw, for the progress bar."""
        if not self._served:
            return OrderedDict()
        block, row = divmod(self._served - 1, self.buffer)
        value = float(self._blocks[block].stats[self.shown_stat][0, row])
        return OrderedDict({self.shown_stat: f"{value:.3g}"})

    def cleanup(self) -> None:
        """Forget the run, but for the transforms that Pyro reads afterwards."""
        transforms = self.transforms
        self._forget()
        self.transforms = transforms

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind: another process builds its own."""
        return {**self.__dict__, **_no_run(), "_start": self._start}

    @property
    def _kernel(self) -> BlockKernel:
        assert isinstance(self, BlockKernel)
        return self

    def _figures(self, stats: dict[str, Tensor]) -> dict[str, float]:
        return {}

    def _forget(self) -> None:
        for name, value in _no_run().items():
            setattr(self, name, value)

    def _at_rung(self) -> Target:
        assert self._target is not None
        late = self._steps >= AUTO_COMPILE_STEPS
        return self._target.with_rung("compiled" if late else "traced")

    def _warm_up(self, target: Target, params: dict[str, Tensor]) -> Iterator[Warmup]:
        return warm_up(
            self._kernel,
            self._at_rung,
            [0],
            num_samples=self.buffer,
            num_chains=1,
            warmup_steps=self._warmup_steps,
            noise=Noise(self._seed, region=1),
            initial=target.layout.flatten(params)[None].to(target.dtype),
        )

    def _advance(self) -> None:
        assert self._warming is not None
        self._warm = next(self._warming)
        self._steps += self._warm.num_steps

    def _fill(self, target: Target) -> None:
        """Make one block of draws ahead."""
        if self._state is None:
            assert self._warm is not None
            self._state = self._warm.state
        block = self._kernel.block(
            self._at_rung(),
            self._state,
            [0],
            self.buffer,
            Noise(self._seed).block([0], len(self._blocks)),
        )
        self._state = block.state
        self._steps += block.num_steps
        self._blocks.append(block)

    def _served_stats(self) -> dict[str, Tensor]:
        if not self._served:
            return {}
        return {
            name: torch.cat([block.stats[name][0] for block in self._blocks])[
                : self._served
            ]
            for name in self._kernel.stats
        }


def _no_run() -> dict[str, Any]:
    """Attributes of a kernel that is not in a run."""
    return {
        "transforms": None,
        "_start": None,
        "_target": None,
        "_warming": None,
        "_warm": None,
        "_state": None,
        "_seed": 0,
        "_warmup_steps": 0,
        "_calls": 0,
        "_steps": 0,
        "_blocks": [],
        "_served": 0,
    }
