"""Every kernel inside `pyro.infer.MCMC`: one chain, served draw by draw."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyro_geo.density import GraphSize, Target
from pyro_geo.density.compiling import worthwhile_steps
from pyro_geo.engine.blocks import Block, Warmup
from pyro_geo.engine.models import explained_data
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.engine.starts import as_values, sites_of_potential, start_positions

if TYPE_CHECKING:
    from pyro_geo.engine.kernel import Kernel

__all__ = ["PyroAdapter"]


class PyroAdapter(MCMCKernel):
    """The members that Pyro's runner asks for; every kernel has them.

    The kernel makes blocks ahead, and Pyro gets their draws one by one. Randomness
    comes from torch's global generator, so `pyro.set_rng_seed` rules.
    """

    draws_ahead: int = 50
    """Draws in one block under Pyro's runner."""

    shown_statistic: str = "lp"
    """Statistic that Pyro's progress bar shows."""

    diagnostic_means: Mapping[str, str] = {}
    """Names in Pyro's `diagnostics()`, each with the statistic it is the mean of."""

    transforms: dict[str, Any] | None = None
    _initial_params: dict[str, Tensor] | None = None
    _chain: _OneChain | None = None

    def first_position(self, target: Target) -> Tensor:
        """Find the start of a chain, `(1, dim)`, by torch's global generator."""
        return target.initial(1, cast("Kernel", self).start_strategy(target))

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Build the density and draw this chain's key from the global generator."""
        kernel = cast("Kernel", self)
        kernel.check_declarations()
        if kernel.potential_fn is not None and self._initial_params is not None:
            transforms = kernel.start_transforms
            kernel = kernel.with_sites(
                sites_of_potential(self._initial_params, 1, transforms, "unconstrained")
            )
        with explained_data(args, kwargs):
            target = kernel.make_target(*args, **kwargs)
        self._chain = _OneChain(kernel, target, warmup_steps)
        self.transforms = {
            name: site.transform.inv for name, site in target.layout.sites.items()
        }
        if not self._initial_params:
            q: Tensor | None = self.first_position(target)
        else:
            given = as_values(self._initial_params, "unconstrained")
            q = start_positions(
                target,
                given,
                1,
                space="unconstrained",
                strategy=kernel.start_strategy(target),
                generators=lambda: [_fresh_generator()],
            )
        assert q is not None
        self._initial_params = target.layout.unflatten(q[0])

    @property
    def initial_params(self) -> dict[str, Tensor] | None:
        """Unconstrained start."""
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Serve the next draw; during warm-up the start is handed back.

        Args:
            params: unconstrained values.

        Returns:
            Unconstrained values of one draw.
        """
        assert self._chain is not None
        return self._chain.sample(params)

    def diagnostics(self) -> dict[str, Any]:
        """Say which draws diverged; warnings about the draws are given here too.

        Returns:
            `"divergences"`, indices of draws, and the means that the kernel declares.
        """
        stats = {} if self._chain is None else self._chain.stats()
        if self._chain is None or not stats:
            return {"divergences": []}
        kernel = self._chain.kernel
        batched = {name: value[None] for name, value in stats.items()}
        for warning in kernel.review([self._chain.state], batched):
            warnings.warn(warning, stacklevel=2)
        means = {
            name: float(_numbers(stats[statistic]).mean())
            for name, statistic in self.diagnostic_means.items()
        }
        return {"divergences": stats["diverging"].nonzero().flatten().tolist(), **means}

    def logging(self) -> Any:
        """One statistic of the last draw, for Pyro's progress bar."""
        name = self.shown_statistic
        stats = {} if self._chain is None else self._chain.last_stats()
        return OrderedDict({name: f"{float(stats[name]):.3g}"} if stats else {})

    def cleanup(self) -> None:
        """Forget the run, but for the transforms that Pyro reads afterwards."""
        self._chain = self._initial_params = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind: another process builds its own."""
        return {**self.__dict__, "_chain": None, "transforms": None}


class _OneChain:
    """One chain under way: warm-up block by block, then blocks of draws made ahead.

    Args:
        kernel: the kernel.
        target: the density.
        warmup_steps: draws that Pyro asks for and throws away.
    """

    def __init__(self, kernel: Kernel, target: Target, warmup_steps: int) -> None:
        self.kernel, self.target = kernel, target
        self.state: Any = None
        self.blocks: list[Block] = []
        self._warmup_steps = warmup_steps
        self._noise = Noise(int(torch.randint(2**62, ())))
        self._asked = self._served = self._steps = 0
        self._graph = GraphSize()
        self._warmup = self._warmups = None

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Serve the next draw, or the start during warm-up."""
        if self._warmups is None:
            self._warmups = warm_up(
                self.kernel,
                self._at_rung,
                [0],
                num_samples=self.kernel.draws_ahead,
                num_chains=1,
                warmup_steps=self._warmup_steps,
                noise=self._noise.region(1),
                initial=self.target.layout.flatten(params)[None].to(self.target.dtype),
            )
            self._warmup = next(self._warmups)
        assert self._warmup is not None
        self._asked += 1
        if self._asked <= self._warmup_steps:
            if not self._warmup.finished and self._asked > self._warmup.iterations:
                self._adapt()
            return params
        while not self._warmup.finished:
            self._adapt()
        index, row = divmod(self._served, self.kernel.draws_ahead)
        if index == len(self.blocks):
            self._make_block(self._warmup.state if index == 0 else self.state)
        self._served += 1
        return self.target.layout.unflatten(self.blocks[index].q[0, row])

    def stats(self) -> dict[str, Tensor]:
        """Statistics of the draws served, `(draws,)`; nothing before the first."""
        if not self._served:
            return {}
        return {
            name: torch.cat([block.stats[name][0] for block in self.blocks])[
                : self._served
            ]
            for name in self.kernel.statistics
        }

    def last_stats(self) -> dict[str, Tensor]:
        """Statistics of the last draw served, `()`; nothing before the first."""
        if not self._served:
            return {}
        index, row = divmod(self._served - 1, self.kernel.draws_ahead)
        return {name: x[0, row] for name, x in self.blocks[index].stats.items()}

    def _at_rung(self) -> Target:
        # Pyro does not say how many draws are to come: as many as have been, say
        late = self._steps >= worthwhile_steps(self._graph)
        return self.target.with_rung("compiled" if late else "traced")

    def _adapt(self) -> None:
        assert self._warmups is not None
        self._warmup = next(self._warmups)
        self._count(self._warmup)

    def _make_block(self, state: Any) -> None:
        streams = self._noise.block([0], len(self.blocks))
        draws = self.kernel.draws_ahead
        block = self.kernel.block(self._at_rung(), state, [0], draws, streams)
        self.state = block.state
        self._count(block)
        self.blocks.append(block)

    def _count(self, done: Warmup | Block) -> None:
        self._steps += done.num_steps
        if done.graph.operations:
            self._graph = done.graph


def _fresh_generator() -> torch.Generator:
    """Randomness that torch's global generator decides."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def _numbers(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.float()
