"""A density evaluated at many positions at once, its derivatives on the ladder."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Hashable
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo._process import Seconds
from pyro_geo.checks import check_shape
from pyro_geo.density.compiling import GraphSize, worthwhile_steps
from pyro_geo.density.dtypes import run_dtype
from pyro_geo.density.functions import in_words, same_function
from pyro_geo.density.ladder import Lifted, Rung, fallback_note, lower_rung
from pyro_geo.density.layout import Layout
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.protocol import Data, Density, Terms
from pyro_geo.errors import ConfigurationError, FallbackWarning
from pyro_geo.ops.derivatives import hvp, value_and_grad, value_grad_hvp

__all__ = ["BatchedDensity", "Compile"]

Compile = Literal["auto"] | bool

_HINT = (
    " To run them together, choose with torch.where in place of if, select with masks "
    "that follow from data, and read no number from a latent."
)


class BatchedDensity:
    """A density of one position, mapped over chains and put on the ladder.

    Args:
        density: the log-density of one position.
        data: the tensors it depends on; they travel as graph inputs.
        dtype: floating type of positions and data.
        compile: when differentiated functions go up to the compiled rung.
    """

    def __init__(
        self,
        density: Density,
        data: Data = (),
        *,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        self.density = density
        self.data = data
        self.dtype = run_dtype(dtype)
        self.layout: Layout = density.layout
        self.compile: Compile = compile
        self._rung: Rung | None = None
        self._calls = 0
        # the functions that this sibling has asked for, and after how many calls of
        # derivatives they are compiled
        self._asked: dict[Hashable, Lifted] = {}
        self._enough = math.inf
        # by key and ceiling, shared by all siblings
        self._lifted: dict[tuple[Hashable, Rung], Lifted] = {}
        # tempered forms by their prior, shared likewise
        self._tempered: dict[Hashable, BatchedDensity] = {}
        self._notes: list[str] = []
        # what this sibling has called, by rung and shapes: looking it up costs as much
        # as a small compiled graph
        self._bound: dict[Hashable, Callable[..., Any]] = {}
        self._highest: Rung = "compiled"
        # lowest rung that functions were found to need before this was pickled
        self._known: Rung = "compiled"
        self._try_mapping()

    def __getstate__(self) -> dict[str, Any]:
        # graphs and compiled code are made again where they are needed
        made = ("_lifted", "_asked", "_bound", "_tempered")
        emptied: dict[str, Any] = {name: {} for name in made}
        return self.__dict__ | emptied | {"_notes": self.notes, "_known": self._reached}

    # -- the ladder ---------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of a flat position."""
        return self.layout.dim

    @property
    def device(self) -> torch.device:
        """Device of the data, where positions must be too."""
        return self.data[0].device if self.data else torch.device("cpu")

    @property
    def rung(self) -> Rung:
        """Rung on which functions of this target run.

        That asked for by `compile` or :meth:`with_rung`, or a lower one where a
        function could not use it.
        """
        # the call that comes next may be the first one that compiles
        return lower_rung(self._wanted(max(self._calls - 1, 0)), self._reached)

    def _wanted(self, calls: int) -> Rung:
        """Rung to try after so many calls."""
        if self._rung is not None:
            return self._rung
        # How many calls are to come is not known here. Compiling once those so far
        # would have paid for it costs at most twice what was best.
        late = self.compile == "auto" and calls >= self._enough
        return "compiled" if self.compile is True or late else "traced"

    @property
    def ceiling(self) -> Rung:
        """Highest rung that the density itself allows."""
        return "sequential" if self._rung == "sequential" else self._highest

    @property
    def _reached(self) -> Rung:
        """Highest rung that all functions of this ceiling can use, as far as known."""
        rung = lower_rung(self.ceiling, self._known)
        for (_, ceiling), lifted in self._lifted.items():
            if ceiling == self.ceiling:  # siblings on other rungs have their own
                rung = lower_rung(rung, lifted.ceiling)
        return rung

    @property
    def graph_size(self) -> GraphSize:
        """Size of the largest graph among the functions asked of this sibling."""
        sizes = [lifted.size for lifted in self._asked.values()]
        return max(sizes, default=GraphSize())

    @property
    def notes(self) -> list[str]:
        """Steps down the ladder so far, each with its reason."""
        return self._notes + [n for f in self._lifted.values() for n in f.notes]

    @property
    def build_seconds(self) -> Seconds:
        """Time spent on tracing and compiling, by this target and its siblings."""
        return sum((f.build_seconds for f in self._lifted.values()), Seconds())

    def bind(self, data: Data) -> Self:
        """Return the same density on other tensors, for use inside lifted functions."""
        sibling = copy.copy(self)
        sibling._lifted, sibling._notes = self._lifted, self._notes
        sibling._tempered, sibling._known = self._tempered, self._known
        sibling._bound = {}
        sibling._asked = {}
        sibling.data = data
        return sibling

    def with_rung(self, rung: Rung | None) -> Self:
        """Return the same target with the rung fixed (`None`: as `compile` says)."""
        sibling = self.bind(self.data)
        sibling._rung = rung
        return sibling

    def lift(self, key: Hashable, fn: Callable[..., Any], name: str) -> Lifted:
        """Put a pure function of this density and of tensors on the ladder, once.

        Args:
            key: name that no other function on this target has.
            fn: `fn(target, *inputs)`, pure; `target` is this density, bound to the
                data that the call brings.
            name: what warnings call it.

        Returns:
            The function on the ladder, shared by all siblings. It is called with the
            data first, `lifted(target.data, *inputs)`. A key that is taken by another
            function is a :class:`~pyro_geo.errors.ConfigurationError`.

        Example:
            >>> from pyro_geo import Target
            >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
            >>> lifted = target.lift(
            ...     "twice", lambda density, q: 2 * density.log_prob(q), "twice"
            ... )
            >>> lifted(target.data, torch.ones(1, 2)).tolist()
            [-4.0]
        """
        # siblings with another ceiling have functions of their own
        place = (key, self.ceiling)
        lifted = self._lifted.get(place)
        if lifted is not None:
            self._check_taken(key, lifted.fn, fn)
            self._asked[place] = lifted
            return lifted
        warned = next((other.warned for other in self._lifted.values()), set())
        # where one function could not be traced with data as inputs, none can
        known = any(other.constant_data for other in self._lifted.values())
        lifted = Lifted(
            _OnDensity(self, fn),
            name=name,
            ceiling=self.ceiling,
            constant_data=known,
            dtype=self.dtype,
        )
        lifted.warned = warned
        self._lifted[place] = lifted
        self._asked[place] = lifted
        return lifted

    def _check_taken(self, key: Hashable, taken: Any, fn: Callable[..., Any]) -> None:
        """Refuse a key under which another function is stored."""
        if same_function(taken.fn, fn):
            return
        raise ConfigurationError(
            "the key of a lifted function is taken by another one",
            where=f"lift, key {key!r}",
            found=in_words(fn),
            expected=in_words(taken.fn),
            todo="Choose another key, with everything in it that the function depends "
            "on.",
        )

    # -- densities ----------------------------------------------------------------

    def map(self, fn: Callable[..., Any], *rows: Tensor) -> Any:
        """Map a function over the chains, as this density allows.

        Args:
            fn: function of one row of each tensor to a tree of tensors.
            *rows: positions, `(chains, dim)`, and what else each chain has of its own.

        Returns:
            The tree, its tensors with a leading axis of chains.
        """
        if self.ceiling == "sequential":
            results = [fn(*one) for one in zip(*rows, strict=True)]
            return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)
        return torch.func.vmap(fn)(*rows)

    def terms(self, q: Tensor) -> Terms:
        """Log-prior (with log-Jacobians) and log-likelihood, `(chains,)` each.

        Args:
            q: positions, `(chains, dim)`.

        Returns:
            Both terms, differentiable.
        """
        q = self._check(q)
        terms = self.map(lambda one: tuple(self.density.terms(one, self.data)), q)
        return Terms(*terms)

    def log_prob(self, q: Tensor) -> Tensor:
        """Log-density with log-Jacobians, `(chains,)`: minus Pyro's potential."""
        terms = self.terms(q)
        return terms.log_prior + terms.log_likelihood

    def log_prior(self, q: Tensor) -> Tensor:
        """Log-prior with log-Jacobians, `(chains,)`."""
        return self.terms(q).log_prior

    def log_likelihood(self, q: Tensor) -> Tensor:
        """Log-probability of the observed sites, scaled and masked, `(chains,)`."""
        return self.terms(q).log_likelihood

    def pointwise_log_likelihood(self, q: Tensor) -> dict[str, Tensor]:
        r"""Log-likelihood of each datum, unscaled; of each group of data where need be.

        Data that share a discrete latent have no likelihoods of their own. Their unit
        is the group that shares it, with the likelihood

        .. math:: \log \sum_z p(z) \prod_{i \in \text{group}} p(y_i \mid z, q)

        Args:
            q: positions, `(chains, dim)`.

        Returns:
            Observed site to `(chains, *site.shape)`; masked data are zero. A group has
            one axis for each plate whose entries share no discrete latent: the axes
            are named by :attr:`~pyro_geo.Target.pointwise_dims`. Where a group spans
            several sites, their names are joined by plus signs.
        """
        q = self._check(q)
        return self.map(lambda one: self.density.pointwise(one, self.data), q)

    def stepwise_log_likelihood(self, q: Tensor) -> dict[str, Tensor]:
        r"""Log-likelihood of each step of the data that are sequences.

        A distribution of a sequence (:class:`~pyro_geo.distributions.HGF`, the
        responses of :mod:`pyro_geo.filtering.response`, your own) has a method
        `log_prob_steps(value)` of shape `(*batch_shape, steps)`, which sums to its
        log-density: :math:`\log p(y) = \sum_t \log p(y_t \mid y_{1:t-1})`. Masked,
        expanded and `to_event` ones count too.

        Args:
            q: positions, `(chains, dim)`.

        Returns:
            As :meth:`pointwise_log_likelihood`, with a last axis of steps for every
            observed site that is a sequence and depends on no discrete latent.
        """
        q, density = self._check(q), self.density
        if not isinstance(density, ModelDensity):
            return self.pointwise_log_likelihood(q)
        return self.map(lambda one: density.pointwise(one, self.data, steps=True), q)

    def deterministics(self, q: Tensor) -> dict[str, Tensor]:
        """Values of the model's deterministic sites, site to `(chains, *shape)`."""
        q = self._check(q)
        density = self.density
        if not isinstance(density, ModelDensity):
            return {}
        return self.map(lambda one: density.deterministics(one, self.data), q)

    @property
    def reparametrised(self) -> tuple[str, ...]:
        """Deterministic sites that are latents to the user: a reparametrisation's."""
        density = self.density
        return density.reparametrised if isinstance(density, ModelDensity) else ()

    # -- derivatives, on the ladder -------------------------------------------------

    def value_and_grad(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density `(chains,)` and its gradient `(chains, dim)`."""
        return self._derivative("value_and_grad", value_and_grad, q)

    def hvp(self, q: Tensor, v: Tensor) -> Tensor:
        """Hessian of the log-density at `q` times `v`, `(chains, dim)`."""
        return self._derivative("hvp", hvp, q, v)

    def value_grad_hvp(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-density, gradient and Hessian product from one fused evaluation."""
        return self._derivative("value_grad_hvp", value_grad_hvp, q, v)

    # -- inside ---------------------------------------------------------------------

    def _derivative(self, name: str, fn: Callable[..., Any], *inputs: Tensor) -> Any:
        rung = self._wanted(self._calls)
        self._calls += 1
        inputs = tuple([q.to(self.dtype) for q in inputs])
        key = (name, rung, *[(q.shape, q.dtype) for q in inputs])
        bound = self._bound.get(key)
        if bound is None:  # shapes are checked once: they are part of the key
            for q in inputs:
                self._check(q)
            lifted = self.lift(
                name, lambda target, *rest: fn(target.log_prob, *rest), name
            )
            bound = lifted.specialise(self.data, *inputs, rung=rung)
            self._bound[key] = bound
            self._enough = worthwhile_steps(self.graph_size)
        return bound(*inputs)

    def _check(self, q: Tensor) -> Tensor:
        """Check the shape of positions, and cast them to the type of the density."""
        good = q.dim() == 2 and q.shape[1] == self.dim
        check_shape("q", q.shape, f"(chains, {self.dim})", good)
        return q.to(self.dtype)

    def _try_mapping(self) -> None:
        """Try the gradient of two mapped chains; without it chains go one at a time."""
        # not zero, where gradients of many functions vanish or do not exist
        q = torch.full((2, self.dim), 0.1, dtype=self.dtype, device=self.device)
        try:
            value_and_grad(self.log_prob, q)
        except Exception as reason:  # a user's model may raise anything under vmap
            if self._maps_with_own_memory(q):
                return
            self._highest = "sequential"
            value_and_grad(self.log_prob, q)  # if it fails here too, that is the error
            note = fallback_note(
                "the model cannot be mapped over chains",
                reason,
                expected="a model that runs under torch.func.vmap",
                to="chains go one at a time, on the rung 'sequential'",
                hint=_HINT,
            )
            self._notes.append(note)
            warnings.warn(note, FallbackWarning, stacklevel=4)

    def _maps_with_own_memory(self, q: Tensor) -> bool:
        """Try the same where each chain has what the model writes into to itself."""
        self.density.own_memory = True
        try:
            value_and_grad(self.log_prob, q)
        except Exception:  # the first error says more about the model
            self.density.own_memory = False
            return False
        return True


class _OnDensity:
    """A function of a density as the ladder calls it: with the data first."""

    def __init__(self, density: BatchedDensity, fn: Callable[..., Any]) -> None:
        self.density = density
        self.fn = fn

    def __call__(self, data: Data, *inputs: Any) -> Any:
        return self.fn(self.density.bind(data), *inputs)
