"""The batched runner: any block kernel, all chains at once."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo._citation import citation
from pyro_geo._seconds import Seconds
from pyro_geo._threads import one_thread
from pyro_geo.errors import (
    ConfigurationError,
    ConvergenceWarning,
    InitializationError,
    explain,
)
from pyro_geo.infer.mcmc._draws import PosteriorDraws
from pyro_geo.infer.mcmc._kernel import Block, BlockKernel, Warmup
from pyro_geo.infer.mcmc._noise import Noise
from pyro_geo.infer.mcmc._progress import Clock, Progress
from pyro_geo.infer.mcmc._warmup import warm_up
from pyro_geo.target import AUTO_COMPILE_STEPS, Rung, Target

__all__ = ["MCMC"]


class _Group(NamedTuple):
    """Chains that run side by side, and where they are."""

    chains: Sequence[int]
    state: Any


class MCMC(PosteriorDraws):
    r"""Run a kernel on a Pyro model with all chains in one batch.

    The method names are those of `pyro.infer.MCMC`; chains are an axis of the tensors
    instead of processes. Work is done in blocks of finished draws: between blocks the
    runner reports progress, goes up the ladder and notices an interrupt, and whatever
    ends a run, finished blocks stay.

    Args:
        kernel: :class:`~pyro_geo.infer.DIMS` or any kernel of the block protocol.
        num_samples: draws per chain.
        warmup_steps: steps of adaptation per chain; the kernel's own default if None.
        num_chains: number of chains.
        seed: the run is a function of it; drawn from torch's generator if None.
        chain_batch_size: run at most this many chains side by side, to save memory.
        compile: `"auto"` starts traced and compiles at the first block after 2,000
            steps, `True` before the first step, `False` never.
        initial_params: unconstrained starts, site to `(num_chains, *shape)`.
        dtype: floating type; torch's default if None.
        progress_bar: whether to show one.

    Raises:
        ConfigurationError: a count is not positive, or the kernel is not a kernel.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import DIMS
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
        >>> x, y = torch.eye(3)[:2], torch.tensor([1.0, -1.0])
        >>> fit = MCMC(DIMS(model), num_samples=8, seed=1, progress_bar=False)
        >>> fit.run(x, y) is fit
        True
        >>> fit.get_samples()["w"].shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        kernel: BlockKernel,
        num_samples: int,
        warmup_steps: int | None = None,
        num_chains: int = 1,
        *,
        seed: int | None = None,
        chain_batch_size: int | None = None,
        compile: Literal["auto"] | bool = "auto",
        initial_params: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        progress_bar: bool = True,
    ) -> None:
        if not isinstance(kernel, BlockKernel):
            raise ConfigurationError(
                explain(
                    "not a batched kernel",
                    where="argument kernel",
                    found=type(kernel).__name__,
                    expected="a kernel of pyro_geo.infer",
                    todo="wrap the model, as in MCMC(DIMS(model), ...)",
                )
            )
        _at_least("num_samples", num_samples, 1)
        _at_least("num_chains", num_chains, 1)
        if warmup_steps is not None:
            _at_least("warmup_steps", warmup_steps, 0)
        if chain_batch_size is not None:
            _at_least("chain_batch_size", chain_batch_size, 1)
        if compile not in ("auto", True, False):
            raise ConfigurationError(
                explain(
                    "unknown choice",
                    where="argument compile",
                    found=repr(compile),
                    expected="'auto', True or False",
                    todo="choose one of these",
                )
            )
        self.kernel = kernel
        self._chain_name = kernel.chain_name
        self.num_samples = num_samples
        self.num_chains = num_chains
        self.warmup_steps = (
            kernel.default_warmup(num_samples, num_chains)
            if warmup_steps is None
            else warmup_steps
        )
        self.seed = seed
        self.chain_batch_size = chain_batch_size
        self.compile: Literal["auto"] | bool = compile
        self.initial_params = initial_params
        self.dtype = dtype
        self.progress_bar = progress_bar
        self.interrupted = False
        self.rung: Rung = "traced"
        self.num_steps = self.warmup_num_steps = 0
        self.num_gradients = self.warmup_num_gradients = 0
        self.timings: dict[str, Seconds] = {}
        self.tuning: Any | None = None
        self._stats = {}
        self._notes = []
        self._facts: dict[str, str | int | float] = {}

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the works behind the result."""
        return self.kernel.citations

    def run(self, *args: Any, **kwargs: Any) -> MCMC:
        """Sample, given the model's arguments.

        An interrupt ends the run with the blocks that are finished; an error is
        raised, and the finished blocks can still be read.

        Args:
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.

        Returns:
            This object, now with draws.

        Raises:
            KeyboardInterrupt: before the first block was finished.
        """
        self._q, self._stats, self._notes = None, {}, []
        self.interrupted = False
        self.num_steps = self.warmup_num_steps = 0
        self.num_gradients = self.warmup_num_gradients = 0
        self.rung, self.tuning, self.superchains = "traced", None, None
        seed = self.seed
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        self.run_seed = seed
        blocks: list[Block] = []
        clock = Clock()
        self.timings = clock.phases
        with one_thread():
            try:
                with clock.phase("start"):
                    target = self.kernel.make_target(*args, dtype=self.dtype, **kwargs)
                    self._check_dtype(target)
                    self._target = target
                clock.building = lambda: target.build_seconds
                with clock.phase("warmup"):
                    groups = self._warm_up(target, Noise(seed))
                with clock.phase("sampling"):
                    for block in self._blocks(target, groups, Noise(seed)):
                        blocks.append(block)
            except KeyboardInterrupt:
                if not blocks:
                    raise
                self.interrupted = True
            finally:
                if blocks:
                    self._keep(blocks)
        self._review(blocks[-1].state)
        return self

    @property
    def seconds(self) -> float:
        """Wall seconds of the run."""
        return sum(phase.wall for phase in self.timings.values())

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of the run."""
        return sum(phase.cpu for phase in self.timings.values())

    def _warm_up(self, target: Target, noise: Noise) -> list[_Group]:
        """Start every group of chains; the first tunes, the others take its tuning."""
        initial = self._initial(target)
        groups: list[_Group] = []
        tuning: Any | None = None
        for chains in self._split():
            bar = Progress("warm up", self.warmup_steps, "step", self.progress_bar)
            now: Warmup | None = None
            with bar:
                for now in warm_up(
                    self.kernel,
                    lambda: self._at_rung(target),
                    chains,
                    num_samples=self.num_samples,
                    num_chains=self.num_chains,
                    warmup_steps=self.warmup_steps,
                    noise=noise.region(1),
                    initial=None if initial is None else initial[list(chains)],
                    tuning=tuning,
                ):
                    self.num_steps += now.num_steps
                    self.num_gradients += now.num_steps * len(chains)
                    self.rung = now.rung or self.rung
                    bar.show(now.iterations, now.progress, self._next(target))
            assert now is not None
            groups.append(_Group(chains, now.state))
            if tuning is None:
                tuning = self.tuning = self.kernel.tuning(now.state)
        self.warmup_num_steps = self.num_steps
        self.warmup_num_gradients = self.num_gradients
        return groups

    def _split(self) -> list[range]:
        """Split the chains into groups of one size, or of two that differ by one."""
        most = self.kernel.max_lanes or self.num_chains
        count = -(-self.num_chains // min(most, self.chain_batch_size or most))
        edges = [i * self.num_chains // count for i in range(count + 1)]
        return [range(a, b) for a, b in itertools.pairwise(edges)]

    def _blocks(
        self, target: Target, groups: list[_Group], noise: Noise
    ) -> Iterator[Block]:
        """Yield each block of all chains once every group has finished it."""
        length = self.kernel.block_draws(target, self.num_samples, self.num_chains)
        total = self.num_samples * self.num_chains
        bar = Progress("sample", total, "draw", self.progress_bar)
        with bar:
            for index, first in enumerate(range(0, self.num_samples, length)):
                draws = min(length, self.num_samples - first)
                at_rung = self._at_rung(target)
                parts = []
                for group in groups:
                    streams = noise.block(group.chains, index)
                    parts.append(
                        self.kernel.block(
                            at_rung, group.state, group.chains, draws, streams
                        )
                    )
                groups = [
                    _Group(group.chains, part.state)
                    for group, part in zip(groups, parts, strict=True)
                ]
                for group, part in zip(groups, parts, strict=True):
                    self.num_gradients += part.num_steps * len(group.chains)
                self.num_steps += max(part.num_steps for part in parts)
                self.rung = parts[0].rung
                block = Block(
                    [part.state for part in parts],
                    torch.cat([part.q for part in parts]),
                    {
                        name: torch.cat([part.stats[name] for part in parts])
                        for name in self.kernel.stats
                    },
                    self.num_steps,
                    self.rung,
                )
                bar.count(block.stats)
                done = (first + draws) * self.num_chains
                bar.show(done, {"rung": self.rung}, self._next(target))
                yield block

    def _next(self, target: Target) -> str | None:
        """What the bar says where the next block compiles first."""
        due = self._at_rung(target).rung
        return "compile" if due == "compiled" and self.rung == "traced" else None

    def _at_rung(self, target: Target) -> Target:
        late = self.compile == "auto" and self.num_steps >= AUTO_COMPILE_STEPS
        return target.with_rung(
            "compiled" if self.compile is True or late else "traced"
        )

    def _initial(self, target: Target) -> Tensor | None:
        if self.initial_params is None:
            return None
        for name, value in self.initial_params.items():
            site = target.layout.sites.get(name)
            expected = (self.num_chains, *(site.shape if site else ()))
            if site is not None and tuple(value.shape) != expected:
                raise ConfigurationError(
                    explain(
                        "starts do not match the chains",
                        where=f"argument initial_params, site {name!r}",
                        found=f"{tuple(value.shape)}",
                        expected=f"{expected}",
                        todo="pass unconstrained values with a leading axis of chains",
                    )
                )
        q = target.layout.flatten(self.initial_params).to(target.dtype).detach()
        log_prob = target.log_prob(q)
        bad = (~log_prob.isfinite()).nonzero().flatten()
        if len(bad):
            chain = int(bad[0])
            raise InitializationError(
                explain(
                    "a start has no finite density",
                    where=f"argument initial_params, chain {chain}",
                    found=f"log-density {float(log_prob[chain])}",
                    expected="a finite number",
                    todo="start inside the support of the model",
                )
            )
        return q

    def _check_dtype(self, target: Target) -> None:
        if self.dtype not in (None, target.dtype):
            raise ConfigurationError(
                explain(
                    "a finished target keeps its dtype",
                    where="argument dtype",
                    found=f"{self.dtype}",
                    expected=f"{target.dtype} or None",
                    todo="make the target with the dtype wanted",
                )
            )

    def _keep(self, blocks: Sequence[Block]) -> None:
        self._q = torch.cat([block.q for block in blocks], 1)
        self._stats = {
            name: torch.cat([block.stats[name] for block in blocks], 1)
            for name in self.kernel.stats
        }

    def _review(self, states: Sequence[Any]) -> None:
        # what others do with the same target later is not this run's affair
        self._notes = self.target.notes
        self._facts = self.kernel.describe(states)
        self.superchains = int(self._facts.pop("num_superchains", 0)) or None
        found = list(self.kernel.review(states, dict(self._stats)))
        if self.interrupted:
            kept = 0 if self._q is None else self._q.shape[1]
            found.append(
                ConvergenceWarning(
                    explain(
                        "the run was interrupted",
                        where="MCMC.run",
                        found=f"{kept} draws per chain",
                        expected=f"{self.num_samples}",
                        todo="use the finished draws or run again",
                    )
                )
            )
        for warning in found:
            self._notes.append(f"{type(warning).__name__}: {warning}")
            warnings.warn(warning, stacklevel=3)

    def _attributes(self) -> dict[str, str | int | float]:
        import pyro

        import pyro_geo

        q = self._positions()
        model = getattr(self.kernel, "model", None)
        if model is None:
            model = getattr(self.kernel, "potential_fn", None)
        return {
            "model": getattr(model, "__name__", type(model).__name__),
            "kernel": type(self.kernel).__name__,
            "seed": self.run_seed,
            "num_chains": q.shape[0],
            "num_draws": q.shape[1],
            "warmup_steps": self.warmup_steps,
            "dim": self.target.dim,
            "dtype": str(q.dtype).removeprefix("torch."),
            "rung": self.rung,
            **self._facts,
            "sampling_time": round(self.seconds, 3),
            "processor_time": round(self.cpu_seconds, 3),
            "interrupted": int(self.interrupted),
            "inference_library": "pyro_geo",
            "inference_library_version": pyro_geo.__version__,
            "torch_version": torch.__version__,
            "pyro_version": pyro.__version__,
            "notes": "\n".join(self.notes),
            "citation": citation(self),
        }


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ConfigurationError(
            explain(
                "count out of range",
                where=f"argument {name}",
                found=repr(value),
                expected=f"an integer of at least {least}",
                todo="pass a larger count",
            )
        )
