"""The batched runner: any kernel, all chains at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from pyro_geo._process import Seconds, one_thread
from pyro_geo.checks import (
    check,
    check_choice,
    check_count,
    check_seed,
    known_options,
)
from pyro_geo.density import Rung, Target
from pyro_geo.engine.attributes import Facts, run_attributes, time_facts
from pyro_geo.engine.chains import ChainSession
from pyro_geo.engine.costs import RunCosts
from pyro_geo.engine.identity import identity_of
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.mode_starts import Modes, ModeStarts, review_modes
from pyro_geo.engine.models import check_kernel, data_notes, explained_data
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.record import DrawRecord
from pyro_geo.engine.schedule import (
    WARMUP_REGION,
    Counts,
    Rounds,
    RunPlan,
    RunState,
    split_chains,
)
from pyro_geo.engine.session import interruption, seed_of_run, sitting
from pyro_geo.engine.starts import (
    Space,
    Values,
    as_values,
    sites_of_potential,
    start_notes,
    start_positions,
)
from pyro_geo.engine.workers import InProcess, JoblibWorkers, Workers, num_processes
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer.mcmc.by_mode import DrawsByMode
from pyro_geo.io.store import RunStore

__all__ = ["MCMC"]


class MCMC(DrawsByMode, RunCosts):
    r"""Run a kernel on a Pyro model with all chains in one batch.

    The method names are those of `pyro.infer.MCMC`; chains are an axis of the tensors
    instead of processes. Work is done in blocks of finished draws: between blocks the
    runner reports progress, goes up the ladder and notices an interrupt, and whatever
    ends a run, finished blocks stay.

    Args:
        kernel: :class:`~pyro_geo.infer.HMC`, :class:`~pyro_geo.infer.DIMS` or any
            :class:`pyro_geo.engine.Kernel`.
        num_samples: draws per chain.
        warmup_steps: steps of adaptation per chain; the kernel's own default if None.
        num_chains: number of chains.
        seed: the run is a function of it; drawn from torch's generator if None.
        chain_batch_size: run at most this many chains side by side, to save memory.
        compile: `"auto"` starts traced and compiles at the first block boundary where
            the steps still planned pay for it, by the size of their graph alone;
            `True` before the first step, `False` never.
        initial_params: where chains start, site to a value for all chains or, with a
            leading axis of chains, to one for each: numbers, lists, arrays or tensors,
            of the values the model sees. Sites left out start as the kernel starts
            them. For a kernel on a `potential_fn` it says which sites there are. Or a
            :class:`~pyro_geo.infer.ModeSet`: chains are shared out among its modes,
            and the result says how many draws each kept.
        initial_space: `"unconstrained"` where `initial_params` are on the real line,
            as in `pyro.infer.MCMC`.
        dtype: floating type; torch's default if None.
        progress_bar: whether to show one.
        store: a folder that takes each finished block, so that the run can be gone on
            with (:meth:`resume`) and be read from elsewhere
            (:func:`~pyro_geo.io.store.open_run`); in memory alone if None.
        n_jobs: groups of chains (`chain_batch_size`) that are run at the same time,
            each in a process of joblib's backend; as the surrounding
            `joblib.parallel_config` says if None. Draws do not depend on it.
        thin: keep every how many draws; `num_samples // thin` of each chain.
        keep: latent and deterministic sites to keep; all if None. What needs the
            others, such as :attr:`positions`, is an error then.
        memory_limit: bytes of draws to hold in memory where there is a `store`; beyond
            it they are there alone, and are read when they are asked for.

    Raises:
        ConfigurationError: the kernel is no kernel. A bad option, or a kernel whose
            declarations do not fit together, is one too.

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

    @known_options
    def __init__(
        self,
        kernel: Kernel,
        num_samples: int,
        warmup_steps: int | None = None,
        num_chains: int = 1,
        *,
        seed: int | None = None,
        chain_batch_size: int | None = None,
        compile: Literal["auto"] | bool = "auto",
        initial_params: Values | Modes | None = None,
        initial_space: Space = "constrained",
        dtype: torch.dtype | None = None,
        progress_bar: bool = True,
        store: str | os.PathLike[str] | None = None,
        n_jobs: int | None = None,
        thin: int = 1,
        keep: Sequence[str] | None = None,
        memory_limit: int = 1 << 30,
    ) -> None:
        check_kernel(kernel, Kernel)
        kernel.check_declarations()
        check_count("num_samples", num_samples)
        # the fourth value by position is that of Pyro, who means starts by it
        placed = isinstance(num_chains, (Mapping, Modes))
        expected = "a count; starts are given by name, initial_params="
        check(not placed, "num_chains", type(num_chains).__name__, expected)
        check_count("num_chains", num_chains)
        check_count("warmup_steps", warmup_steps, 0)
        check_count("chain_batch_size", chain_batch_size)
        check_count("memory_limit", memory_limit, 0)
        check_count("thin", thin)
        check_seed(seed)
        check(thin <= num_samples, "thin", thin, f"at most {num_samples} num_samples")
        check_choice("compile", compile, ("auto", True, False))
        named = keep is None or (keep and not isinstance(keep, str))
        check(bool(named), "keep", keep, "a list of sites, or None for all")
        counted = n_jobs is None or (isinstance(n_jobs, int) and n_jobs != 0)
        check(counted, "n_jobs", n_jobs, "a count, -1 for all processors, or None")
        super().__init__(chain_name=kernel.chain_name)
        self.modes = initial_params if isinstance(initial_params, Modes) else None
        given = None if isinstance(initial_params, Modes) else initial_params
        self.initial_params = as_values(given, initial_space)
        self.initial_space: Space = initial_space
        if kernel.potential_fn is not None and self.initial_params is not None:
            of_one = sites_of_potential(
                self.initial_params, num_chains, kernel.start_transforms, initial_space
            )
            kernel = kernel.with_sites(of_one)
        elif kernel.potential_fn is not None and self.modes is not None:
            kernel = kernel.with_sites(self.modes.layout.constrain(self.modes.q[0]))
        self.kernel = kernel
        self.num_samples = num_samples
        self.num_chains = num_chains
        self._warmup_given = warmup_steps
        self.warmup_steps = self._warmup(None)
        self.seed = seed
        self.chain_batch_size = chain_batch_size
        self.compile: Literal["auto"] | bool = compile
        self.dtype = dtype
        self.progress_bar = progress_bar
        self.store = store
        self.n_jobs = n_jobs
        self.thin = thin
        self.keep = None if keep is None else list(keep)
        self.memory_limit = memory_limit
        self.timings: dict[str, Seconds] = {}
        self._forget()

    @property
    def _described(self) -> str:
        return f"{self.kernel!r}; {super()._described}"

    @property
    def _settings(self) -> dict[str, object]:
        """What there is to show before a run."""
        names = ("num_samples", "warmup_steps", "num_chains", "seed")
        facts = {name: getattr(self, name) for name in names}
        return {"kernel": self.kernel, **facts, "draws": "none yet"}

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
            This object, now with draws. A path in `store` where there is something
            already, or that cannot be written, is a
            :class:`~pyro_geo.errors.CheckpointError`; `KeyboardInterrupt` is raised
            where it comes before the first block is finished.
        """
        return self._execute(args, kwargs, resume=False)

    def resume(self, *args: Any, **kwargs: Any) -> MCMC:
        """Continue the run in `store` as if it had never stopped, bit for bit.

        Before that the data, the kernel's settings and the log-density at stored
        positions are compared with what the run was begun with. With a larger
        `num_samples` a finished run is continued too, as if so many draws had been
        asked for at once; `warmup_steps` is that of the store where it is left out.

        Args:
            *args: the model's arguments, those that the run was begun with.
            **kwargs: the model's keyword arguments.

        Returns:
            This object, with the draws of the whole run. A store of another run, of
            another version, damaged or written to by another process is a
            :class:`~pyro_geo.errors.CheckpointError`, and stays as it is; without
            `store` it is a :class:`~pyro_geo.errors.ConfigurationError`.

        Example:
            >>> import tempfile
            >>> import pyro, pyro.distributions as dist
            >>> from pyro_geo.infer import HMC
            >>> def model(y):
            ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
            ...     pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
            >>> y = torch.tensor(0.5)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     options = {"store": f"{folder}/run.zarr", "progress_bar": False}
            ...     fit = MCMC(HMC(model), 50, 100, 4, seed=1, **options).run(y)
            ...     more = MCMC(HMC(model), 100, 100, 4, **options).resume(y)
            >>> bool((more.positions[:, :50] == fit.positions).all())
            True
        """
        expected = "the folder of a run to continue"
        check(self.store is not None, "store", self.store, expected)
        return self._execute(args, kwargs, resume=True)

    def _execute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, resume: bool
    ) -> MCMC:
        self._forget()
        self._args, self._kwargs = args, kwargs  # `arviz.from_pyro` asks for these
        clock = Clock()
        self.timings = clock.phases

        def begin(store: RunStore | None) -> ChainSession:
            self.run_seed = seed_of_run(self.seed, store)
            self.warmup_steps = self._warmup(store)
            with explained_data(args, kwargs):
                target = self.kernel.make_target(*args, dtype=self.dtype, **kwargs)
            self._check_dtype(target)
            self._target = target
            return self._session(target, store, (args, kwargs), clock)

        path = self.store if resume else None
        with one_thread(), sitting(begin, path, clock) as session:
            session.run(self.progress_bar, lambda: self._take(session))
            review = self._review(session.state.states)
            session.finish(self.attributes)
        for warning in review:
            warnings.warn(warning, stacklevel=3)
        return self

    def _warmup(self, store: RunStore | None) -> int:
        """Steps of warm-up: the user's, those of the run in the store, the kernel's."""
        if self._warmup_given is not None:
            return self._warmup_given
        if store is not None and isinstance(run := store.header.get("run"), dict):
            # the kernel's choice may depend on how many draws were planned then
            steps = run.get("warmup_steps")
            if isinstance(steps, int) and steps >= 0:
                return steps
        return self.kernel.default_warmup(self.num_samples, self.num_chains)

    def _check_dtype(self, target: Target) -> None:
        keeps = f"{target.dtype} or None: a finished target keeps its dtype"
        good = self.dtype in (None, target.dtype)
        check(good, "dtype", self.dtype, keeps)

    def _session(
        self,
        target: Target,
        store: RunStore | None,
        arguments: tuple[Any, ...],
        clock: Clock,
    ) -> ChainSession:
        """Put together what a run consists of, from the start or from a store."""
        kernel = self.kernel
        # chains of one group run side by side; groups can run in several processes
        most = kernel.max_lanes or self.num_chains
        most = min(most, self.chain_batch_size or most)
        groups = split_chains(self.num_chains, most)
        length = kernel.block_draws(target, self.num_samples, self.num_chains)
        plan = RunPlan(
            self.run_seed, self.num_samples, self.num_chains, self.warmup_steps
        )
        chains = range(self.num_chains)
        noise = Noise(self.run_seed, WARMUP_REGION).block(chains, 0)
        if self.modes is not None:
            self._starts = ModeStarts(self.modes, target, self.num_chains)
            initial = self._starts.positions(noise)
            self._start_notes = self._starts.notes()
        else:
            initial = start_positions(
                target,
                self.initial_params,
                self.num_chains,
                space=self.initial_space,
                strategy=kernel.start_strategy(target),
                generators=lambda: [noise.generator(chain) for chain in chains],
            )
            self._start_notes = start_notes(initial)
        self._start_notes += data_notes(target)
        starts = self._starts
        modes = None if starts is None else starts.chains
        rounds = Rounds(kernel, plan, groups, length, self.compile, initial, modes)
        workers: Workers = InProcess(kernel, target, plan)
        if len(groups) > 1 and num_processes(self.n_jobs) > 1:
            workers = JoblibWorkers(kernel, target, plan, arguments, self.n_jobs)
        record = DrawRecord(
            target,
            kernel.statistics if starts is None else (*kernel.statistics, "mode"),
            self.num_chains,
            thin=self.thin,
            keep=self.keep,
            limit=self.memory_limit,
        )
        label = None if starts is None else starts.labels
        session = ChainSession(rounds, record, workers, clock, self._live, label)
        if self.keep is not None:
            _ = record.recorded  # an unknown name raises here, before sampling
        if self.store is not None:
            identity = self._identity(target, groups)
            session.attach(self.store, store, identity, self.attributes)
        return session

    def _identity(self, target: Target, groups: list[range]) -> dict[str, Any]:
        run = {
            "num_chains": self.num_chains,
            "warmup_steps": self.warmup_steps,
            "chain_batch_size": len(groups[0]),
            "thin": self.thin,
            "keep": self.keep,
            "initial_params": self._starts.identity
            if self._starts is not None
            else self.initial_params,
            "initial_space": self.initial_space if self.initial_params else None,
        }
        return identity_of(self.kernel, self.run_seed, run, target)

    def _forget(self) -> None:
        """Forget the last run."""
        self._draws = self._target = None
        self._notes, self._start_notes = [], []
        self._starts: ModeStarts | None = None
        self._facts: Facts = {}
        self._counts = Counts()
        self.interrupted = False
        self.rung: Rung = "traced"
        self.tuning: Any | None = None
        self.superchains = None

    def _take(self, session: ChainSession) -> None:
        """Take over the draws and the state of a run, finished or not."""
        record, state = session.record, session.state
        self._draws = record if record.num_draws else None
        self._counts, self.rung = state.counts, state.rung
        if state.stage != "tune":
            self.tuning = self.kernel.tuning(state.states[0])
        self._notes = [*session.notes, *self._start_notes]
        self.interrupted = session.interrupted

    @property
    def _draws_kept(self) -> int:
        return 0 if self._draws is None else self._draws.num_draws

    def _review(self, states: Sequence[Any]) -> list[PyroGeoWarning]:
        """Collect the warnings of the kernel, and add them to the notes."""
        self._facts = self.kernel.describe(states)
        self.superchains = self.kernel.superchains(states)
        self._notes += self.kernel.notes(states)
        review = list(self.kernel.review(states, self.stats))
        if self._starts is not None:
            labels = self.stats["mode"]
            found = review_modes(labels, self._starts)
            self._facts |= found.attributes
            self._notes += found.notes
            review += found.warnings
        if self.interrupted:
            found = f"{self._draws_kept} draws per chain"
            review.append(interruption("MCMC.run", found, f"{self.num_samples}"))
        self._notes += [f"{type(warning).__name__}: {warning}" for warning in review]
        return review

    def _live(self, state: RunState) -> dict[str, Any]:
        """Facts that change with each round, written to the store again."""
        facts: dict[str, Any] = {
            "num_draws": state.draws // self.thin,
            "rung": state.rung,
            **time_facts(self.timings),
        }
        if state.stage == "draw":
            facts |= self.kernel.describe(state.states)
            if superchains := self.kernel.superchains(state.states):
                facts["superchains"] = superchains
        return facts

    @property
    def attributes(self) -> dict[str, str | int | float]:
        """Facts of the run, texts and numbers by name."""
        return run_attributes(
            # before the first draw there is one in `_target` alone
            self.target if self._target is None else self._target,
            {
                "num_chains": self.num_chains,
                "num_draws": self._draws_kept,
                "warmup_steps": self.warmup_steps,
                "rung": self.rung,
                **({} if self._starts is None else self._starts.facts),
                **self._facts,
            },
            model=self.kernel.model_title,
            kernel=type(self.kernel).__name__,
            seed=self.run_seed,
            timings=self.timings,
            interrupted=self.interrupted,
            notes=self.notes,
            citations=self,
        )
