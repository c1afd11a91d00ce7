"""The base class of every kernel."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from pyro_geo.checks import check, shown_options
from pyro_geo.citations import check_citations
from pyro_geo.density import Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.blocks import Block, BurnIn, ChainGroup, Warmup
from pyro_geo.engine.models import (
    check_model,
    layout_of_values,
    name_of,
    title_of,
)
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.engine.pyro_adapter import PyroAdapter
from pyro_geo.errors import ConfigurationError, DivergenceWarning, PyroGeoWarning

__all__ = ["Kernel"]

_REQUIRED = ("lp", "diverging")


class Kernel(PyroAdapter):
    """What makes draws: a state goes in, a block of draws comes out.

    A subclass writes :meth:`start`, :meth:`block` and the names of its
    :attr:`statistics`; all else has defaults. :class:`pyro_geo.infer.MCMC` does the
    rest between blocks: progress, interrupts, stores, going up the ladder, spreading
    groups of chains over processes. `pyro.infer.MCMC` runs the same object, one chain
    at a time.

    A block depends on its arguments alone: random numbers come from `noise`, and
    nothing is kept on the kernel. So a block can be run again, in another process or
    in another order.

    Args:
        model: a Pyro model, or a :class:`pyro_geo.Target`.
        potential_fn: instead of a model, a function of a dictionary of unconstrained
            values that returns minus the log-density. It holds its data itself, and
            the `initial_params` of the run say which sites it has.
        transforms: beside `potential_fn`, site to the map from constrained to
            unconstrained values, as Pyro has them; none for sites on the real line.

    Raises:
        ConfigurationError: neither a model nor a potential function, both, or
            something that is no model.

    Example:
        >>> import torch
        >>> from pyro_geo.engine import Block, Kernel
        >>> from pyro_geo.infer import MCMC
        >>> class Uniform(Kernel):
        ...     statistics = ("lp", "diverging")
        ...
        ...     def start(self, target, group):
        ...         return group.burn_in(group.starts(target))
        ...
        ...     def block(self, target, state, chains, draws, noise):
        ...         q = noise.uniform(draws, target.dim, dtype=target.dtype)
        ...         lp = target.log_prob(q.flatten(0, 1)).view(q.shape[:2])
        ...         stats = {"lp": lp, "diverging": ~lp.isfinite()}
        ...         return Block(q[:, -1], q, stats, draws, target.rung)
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> fit = MCMC(Uniform(target), 10, num_chains=4, seed=1, progress_bar=False)
        >>> fit.run().positions.shape
        torch.Size([4, 10, 2])
    """

    statistics: tuple[str, ...] = ()
    """Names of the statistics of each draw, `lp` and `diverging` among them."""

    settings: tuple[str, ...] = ()
    """Names of the attributes that a resumed run must have in common with the first."""

    citations: tuple[str, ...] = ()
    """Works the kernel comes from, see :func:`pyro_geo.citation`."""

    chain_name: str = "chain"
    """What the report calls a chain."""

    max_lanes: int | None = None
    """Most chains that run side by side; None leaves it to the runner."""

    state_type: Any = None
    """Type of the states where it is a named tuple or a data class; a store knows no
    other types than this one, those in its annotations, tensors, numbers and texts."""

    draws_per_block: int = 50
    """Draws of each chain in one block, of burn-in too."""

    model: Callable[..., Any] | Target | None = None
    potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None

    def __init__(
        self,
        model: Callable[..., Any] | Target | None = None,
        *,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        transforms: Mapping[str, Any] | None = None,
    ) -> None:
        owner = type(self).__name__
        if potential_fn is None:
            check_model(model, owner)
        elif model is not None or not callable(potential_fn):
            raise ConfigurationError(
                "a kernel has one density",
                where=f"{owner}, argument potential_fn",
                found="a model and a potential function"
                if model is not None
                else type(potential_fn).__name__,
                expected="a model, or a function from a dictionary to minus the "
                "log-density",
                todo=f"Pass {owner}(model), or {owner}(potential_fn=function).",
            )
        good = transforms is None or potential_fn is not None
        found = "transforms with a model"
        check(good, "transforms", found, "None: a model's sites bring their own")
        self.model = model
        self.potential_fn = potential_fn
        self.start_transforms = dict(transforms or {})
        self._sites: Mapping[str, Tensor] = {}

    def __repr__(self) -> str:
        """Name the model and the options that were given."""
        inside = [self.model_name, *shown_options(self, ("model",))]
        if self.model is None:
            inside = shown_options(self, ())
        return f"{type(self).__name__}({', '.join(inside)})"

    @property
    def model_name(self) -> str:
        """Name of the model or of the potential function."""
        return name_of(self.potential_fn if self.model is None else self.model)

    @property
    def model_title(self) -> str:
        """The same for the record of a run: of a file where the name is `model`."""
        return title_of(self.potential_fn if self.model is None else self.model)

    @property
    def potential_sites(self) -> Mapping[str, Tensor]:
        """Constrained values that say which sites the potential function has."""
        return self._sites

    def with_sites(self, values: Mapping[str, Tensor]) -> Self:
        """Return the same kernel, told which sites its potential function has.

        Args:
            values: constrained ones of one chain, site to tensor.

        Returns:
            A copy.
        """
        other = copy.copy(self)
        other._sites = dict(values)
        return other

    # -- what a kernel writes ---------------------------------------------------------

    @abstractmethod
    def start(self, target: Target, group: ChainGroup) -> Warmup:
        """Start a group of chains.

        Args:
            target: the density.
            group: the chains, and what is known about the run.

        Returns:
            The first state; `group.burn_in(state)` where warm-up tunes nothing.
        """

    @abstractmethod
    def block(
        self,
        target: Target,
        state: Any,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Make the next draws of each chain.

        Args:
            target: the density.
            state: where the chains are.
            chains: their indices.
            draws: how many of each chain.
            noise: streams for this block, one per chain.

        Returns:
            The draws, and the state after them.
        """

    # -- what has defaults ------------------------------------------------------------

    def make_target(
        self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Target:
        """Turn the model and the arguments of `run` into a density.

        Args:
            *args: the model's arguments; for a finished target new data, or none.
            dtype: floating type of a model's target, torch's default if None.
            **kwargs: the model's keyword arguments.

        Returns:
            The density.

        Raises:
            ConfigurationError: nothing says which sites a potential function has.
                Arguments beside one are one too.
        """
        if isinstance(self.model, Target):
            given = bool(args or kwargs)
            return self.model.with_data(*args, **kwargs) if given else self.model
        if self.model is not None:
            return Target.from_model(self.model, *args, dtype=dtype, **kwargs)
        assert self.potential_fn is not None
        shown = f"{len(args) + len(kwargs)} arguments of run"
        good = not args and not kwargs
        check(good, "potential_fn", shown, "a closure over its data, and run()")
        sites = self.potential_sites
        if not sites:
            raise ConfigurationError(
                "nothing says which sites the potential function has",
                where="argument initial_params of MCMC",
                found="none",
                expected='site to tensor, as in {"x": torch.zeros(num_chains, 3)}',
                todo="Pass initial_params to MCMC; DIMS takes anchors too.",
            )
        layout = layout_of_values(sites, self.start_transforms)
        return Target.from_potential(self.potential_fn, layout, dtype=dtype)

    def start_strategy(self, target: Target) -> Strategy:
        """How sites start that the user gives no value, where others have one."""
        return "uniform"

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Compute the statistic `lp` again, to compare a stored run with this one.

        Args:
            target: the density.
            q: positions, `(draws, dim)`.

        Returns:
            Values, `(draws,)`.
        """
        return target.log_prob(q)

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """Steps of warm-up where the user names none: as many as draws, as in Pyro."""
        return num_samples

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """Draws of each chain in one block, fixed for a run."""
        return self.draws_per_block

    def adapt(
        self, target: Target, state: Any, chains: Sequence[int], noise: BlockNoise
    ) -> Warmup:
        """Make one block of warm-up; by default draws that are thrown away.

        Args:
            target: the density.
            state: what the last call, or `start`, returned.
            chains: indices of the chains.
            noise: streams for this block.

        Returns:
            The next state. The engine asks again until it is finished.
        """
        assert isinstance(state, BurnIn), "start returned group.burn_in(state)"
        draws = min(self.draws_per_block, state.left)
        made = self.block(target, state.state, chains, draws, noise)
        left, done = state.left - draws, state.done + draws
        following = BurnIn(made.state, left, done) if left else made.state
        return Warmup(
            following, left == 0, done, made.num_steps, made.rung, graph=made.graph
        )

    def tuning(self, state: Any) -> Any | None:
        """What the first group found in its warm-up, for all others; None if nothing.

        Args:
            state: of the first group.

        Returns:
            Anything; `start` and `adapt` of the other groups know what it is.
        """
        return None

    def steps_per_draw(self, state: Any) -> float | None:
        """Batched steps that a draw will take, for the rule of `compile="auto"`.

        Args:
            state: of the first group, before its first draw.

        Returns:
            Their mean number; None (the default) for as many as a step of warm-up.
        """
        return None

    def review(
        self, states: Sequence[Any], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Say what a user must know of finished draws; by default, which diverged.

        Args:
            states: last state of every group of chains.
            stats: name to `(chains, draws)`.

        Returns:
            The warnings.
        """
        diverging = stats["diverging"]
        if not bool(diverging.any()):
            return []
        return [
            DivergenceWarning(
                "transitions diverged",
                where=type(self).__name__,
                found=f"{int(diverging.sum())} of {diverging.numel()}",
                expected="none",
                todo="lower the step size or reparametrise the model",
            )
        ]

    def notes(self, states: Sequence[Any]) -> list[str]:
        """Say what the result's notes tell without a warning; nothing by default.

        Args:
            states: last state of every group of chains.

        Returns:
            Sentences.
        """
        return []

    def describe(self, states: Sequence[Any]) -> dict[str, str | int | float]:
        """State facts about the run that the result records.

        Args:
            states: last state of every group of chains.

        Returns:
            Name to fact; none by default.
        """
        return {}

    def superchains(self, states: Sequence[Any]) -> int | None:
        """Say whether chains share their starts, which nested R-hat makes use of.

        Args:
            states: last state of every group of chains.

        Returns:
            Number of sets of consecutive chains that started at one point, or None.
        """
        return None

    # -- what is checked --------------------------------------------------------------

    def check_declarations(self) -> None:
        """Refuse a kernel whose class attributes do not fit together.

        The runner asks for this before anything is computed. An unknown citation is a
        :class:`~pyro_geo.errors.ConfigurationError` too.

        Raises:
            ConfigurationError: a required statistic is missing, or a setting is no
                attribute.
        """
        name = type(self).__name__
        missing = [key for key in _REQUIRED if key not in self.statistics]
        if missing:
            raise ConfigurationError(
                "the kernel lacks a required statistic",
                where=f"{name}.statistics",
                found=tuple(self.statistics),
                expected=f"{' and '.join(map(repr, _REQUIRED))} among them",
                todo=f"Add {' and '.join(map(repr, missing))} to {name}.statistics and "
                "to the stats of each Block.",
            )
        for setting in self.settings:
            if not hasattr(self, setting):
                raise ConfigurationError(
                    "the kernel lacks a setting that it declares",
                    where=f"{name}.settings",
                    found=f"no attribute {setting!r}",
                    expected="an attribute for each name",
                    todo=f"Set it in {name}.__init__, or take the name out.",
                )
        check_citations(f"{name}.citations", self.citations)
