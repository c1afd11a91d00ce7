"""A model and its data as a flat, batched, differentiable density."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check, check_choice, check_number
from pyro_geo.density._drawing import sample_discrete
from pyro_geo.density.batched import BatchedDensity, Compile
from pyro_geo.density.dtypes import run_dtype
from pyro_geo.density.initial import (
    Strategy,
    initial_each,
    initial_positions,
)
from pyro_geo.density.layout import Layout
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.module import ModuleDensity, PotentialDensity
from pyro_geo.density.protocol import cast
from pyro_geo.density.tempered import Localisation, Prior, temper
from pyro_geo.errors import ShapeError

__all__ = ["Target"]

_NOT_TEMPERED = "not tempered"


class Target(BatchedDensity):
    r"""A log-density over flat unconstrained positions, for many chains at once.

    .. math::
        \log p(q) = \log p(y \mid z(q)) + \log p(z(q)) + \log|\partial z/\partial q|

    Every method takes positions `q` of shape `(chains, dim)` and treats the rows as
    independent. Make one with :meth:`from_model`, :meth:`from_potential` or
    :meth:`from_module`.

    Args:
        density: the log-density of one position.
        data: the tensors it depends on; they travel as graph inputs.
        dtype: floating type of positions and data.
        compile: `True` compiles on the first call, `False` never, `"auto"` once the
            calls so far would have paid for it, by the size of their graph. Tracing
            replaces the compiler where there is none.

    Example:
        >>> target = Target.from_potential(lambda q: 0.5 * (q * q).sum(), 2)
        >>> target.log_prob(torch.ones(3, 2)).tolist()
        [-1.0, -1.0, -1.0]
        >>> value, grad = target.value_and_grad(torch.ones(1, 2))
        >>> grad.tolist()
        [[-1.0, -1.0]]
    """

    _temper: str | None = _NOT_TEMPERED

    def __repr__(self) -> str:
        """Name the sites with their shapes, the dtype and the number of data."""
        shapes = [
            f"{name} {tuple(site.constrained_shape)}"
            for name, site in self.layout.sites.items()
        ]
        shown = ", ".join(shapes[:6] + [f"{len(shapes) - 6} more"] * (len(shapes) > 6))
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({shown}; dim {self.dim}, {dtype})"

    # -- makers ---------------------------------------------------------------------

    @classmethod
    def from_model(
        cls,
        model: Callable[..., Any],
        *args: Any,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
        **kwargs: Any,
    ) -> Self:
        """Make the posterior density of a Pyro model at its arguments.

        Latent sites are the unobserved sample statements, in the order of their
        names. Those with finitely many discrete values are summed out, as by Pyro's
        HMC, and count as likelihood. Floating tensors among the arguments are cast to
        `dtype`, and so are those that the model brings along where they meet others;
        all tensors among the arguments become graph inputs.

        Args:
            model: an ordinary Pyro model, plates and `PyroModule` included.
            *args: the model's arguments.
            dtype: floating type, torch's default when left out.
            compile: see :class:`Target`.
            **kwargs: the model's keyword arguments.

        Returns:
            The target, its potential equal to Pyro's. A model that cannot be used
            raises :class:`~pyro_geo.errors.ModelError` (no latent site, or sites that
            come and go), :class:`~pyro_geo.errors.UnsupportedModelError` (discrete
            latents without end, alone, or that the model cannot take all values of at
            once, subsampled plates, supports that depend on latents, random
            operations outside sample statements) or
            :class:`~pyro_geo.errors.ShapeError` (a site's shape changes).

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> def model(y):
            ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            ...     with pyro.plate("data", len(y)):
            ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
            >>> target = Target.from_model(model, torch.zeros(3))
            >>> q = torch.zeros(2, target.dim)
            >>> target.dim, target.pointwise_log_likelihood(q)["y"].shape
            (1, torch.Size([2, 3]))
        """
        dtype = run_dtype(dtype)
        density = ModelDensity(model, args, kwargs, dtype)
        data = cast(density.rebind(*args, **kwargs), dtype)
        return cls(density, data, dtype=dtype, compile=compile)

    @classmethod
    def from_potential(
        cls,
        fn: Callable[..., Tensor],
        dim: int | Layout,
        *data: Tensor,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> Self:
        """Make a density from a potential function, minus the log-density.

        Args:
            fn: `fn(q, *data)` of one position `(dim,)`; given a :class:`Layout` it
                gets a dictionary of unconstrained values instead.
            dim: length of a position, or its layout.
            *data: tensors passed to `fn`.
            dtype: floating type, torch's default when left out.
            compile: see :class:`Target`.

        Returns:
            The target; everything counts as likelihood, the log-prior is zero.
        """
        by_site = isinstance(dim, Layout)
        layout = (
            dim
            if isinstance(dim, Layout)
            else Layout.from_supports({"q": (torch.Size([dim]), constraints.real)})
        )
        dtype = run_dtype(dtype)
        density = PotentialDensity(fn, layout, by_site)
        return cls(density, cast(data, dtype), dtype=dtype, compile=compile)

    @classmethod
    def from_module(
        cls,
        module: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: tuple[Tensor, ...],
        *,
        prior_precision: float = 0.0,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> Self:
        """Make a density over the parameters of a module.

        Args:
            module: any module without random layers or running statistics (call
                `eval()` first); it is copied.
            loss: `loss(outputs, targets)` in nats, one value per datum (such as
                `cross_entropy(..., reduction="none")`) or their sum.
            data: inputs of the module, and the targets last.
            prior_precision: of a normal prior on all parameters; 0 for none.
            dtype: floating type, torch's default when left out.
            compile: see :class:`Target`.

        Returns:
            The target with `log_likelihood = -sum(loss)`. More losses than data, as
            outputs `(n, 1)` and targets `(n,)` make them, are a
            :class:`~pyro_geo.errors.ShapeError`.
        """
        expected = "a tuple, the inputs and then the targets, as in (x, y)"
        check(isinstance(data, (tuple, list)), "data", type(data).__name__, expected)
        dtype = run_dtype(dtype)
        module = copy.deepcopy(module).to(dtype).requires_grad_(False)
        density = ModuleDensity(module, loss, prior_precision)
        tensors = cast(data, dtype)
        density.check_deterministic(tensors)
        return cls(density, tensors, dtype=dtype, compile=compile)

    # -- sites ----------------------------------------------------------------------

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of each site, plates by their own name."""
        return dict(getattr(self.density, "dims", {}))

    @property
    def coords(self) -> dict[str, list[int]]:
        """Coordinates of the plates."""
        return {k: list(v) for k, v in getattr(self.density, "coords", {}).items()}

    @property
    def pointwise_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of :meth:`pointwise_log_likelihood`, without chains."""
        if not isinstance(self.density, ModelDensity):
            return {}
        return self.density.pointwise_dims(self._somewhere, self.data)

    @property
    def num_discrete(self) -> int:
        """Number of entries of the discrete latents that are summed out."""
        sites = getattr(self.density, "enumerated", {}).values()
        return sum(math.prod(site.shape) for site in sites)

    @property
    def observed(self) -> dict[str, Tensor]:
        """Observed values, site to tensor; empty for a potential or a module."""
        if not isinstance(self.density, ModelDensity):
            return {}
        values = self.density.observed_values(self._somewhere, self.data)
        # a factor is an observed site without a value
        return {name: value for name, value in values.items() if value.numel()}

    @property
    def _somewhere(self) -> Tensor:
        """A position, for what is the same at all of them."""
        return torch.zeros(self.dim, dtype=self.dtype, device=self.device)

    def constrain(self, q: Tensor) -> dict[str, Tensor]:
        """Values the model sees, site to `(..., *shape)`, for `q` of `(..., dim)`."""
        return self.layout.constrain(q.to(self.dtype))

    def unconstrain(self, sites: Mapping[str, Tensor]) -> Tensor:
        """Flat positions `(..., dim)` of constrained values."""
        return self.layout.unconstrain(sites).to(self.dtype)

    @property
    def default_strategy(self) -> Strategy:
        """Start used where none is named: prior medians of a model, else `uniform`."""
        return "median" if isinstance(self.density, ModelDensity) else "uniform"

    def initial(
        self,
        num_chains: int,
        strategy: Strategy = "uniform",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Find one start of finite density and gradient per chain.

        Args:
            num_chains: how many.
            strategy: `"uniform"` on (-2, 2), `"prior"`, `"median"` of prior draws, or
                one of Pyro's `init_to_...` functions. A module under `"uniform"`
                starts as its own layers initialise themselves. Improper sites start
                uniform whatever the strategy.
            generator: randomness; torch's global one when left out.

        Returns:
            Positions, `(num_chains, dim)`. Where 100 tries bring no finite start,
            :class:`~pyro_geo.errors.InitializationError` names the site.
        """
        return initial_positions(self, num_chains, strategy, generator)

    def initial_each(
        self,
        generators: Sequence[torch.Generator],
        strategy: Strategy = "uniform",
    ) -> Tensor:
        """Find one start per chain, each from a generator of its own.

        Row `i` holds the numbers of `initial(1, strategy, generators[i])`, but all
        rows are tried together: the model runs once for each round of tries, not once
        for each chain.

        Args:
            generators: randomness, one for each chain.
            strategy: as in :meth:`initial`.

        Returns:
            Positions, `(len(generators), dim)`. Where 100 tries bring a row no finite
            start, :class:`~pyro_geo.errors.InitializationError` names the site.

        Example:
            >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
            >>> seeds = [torch.Generator().manual_seed(i) for i in range(3)]
            >>> target.initial_each(seeds).shape
            torch.Size([3, 2])
        """
        return initial_each(self, generators, strategy)

    def sample_discrete(
        self,
        q: Tensor,
        noise: torch.Generator | Tensor | None = None,
        *,
        temperature: Literal[0, 1] = 1,
    ) -> dict[str, Tensor]:
        """Draw the discrete latents that are summed out, given `q` and the data.

        All of them together, from their exact joint distribution; with `temperature`
        0 their most probable joint values. Masks count, scales and the temperature of
        a tempered target do not, as in `pyro.infer.infer_discrete`.

        Args:
            q: positions, `(chains, dim)`.
            noise: a generator; or independent uniform numbers on [0, 1),
                `(chains, num_discrete)`, whose rows belong to those of `q`; torch's
                global generator when left out.
            temperature: 1 to draw, 0 for the most probable values.

        Returns:
            Discrete site to values, `(chains, *site.shape)`, as the model sees them;
            empty for a model without discrete latents.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> def model(y):
            ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            ...     with pyro.plate("data", len(y)):
            ...         z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            ...         pyro.sample("y", dist.Normal(mean + 10 * z, 1.0), obs=y)
            >>> target = Target.from_model(model, torch.tensor([0.1, 9.8, 10.3]))
            >>> target.sample_discrete(torch.zeros(1, 1), temperature=0)
            {'z': tensor([[0, 1, 1]])}
        """
        check_choice("temperature", temperature, (0, 1))
        return sample_discrete(self, self._check(q), noise, likeliest=temperature == 0)

    # -- other temperatures -----------------------------------------------------------

    def tempered(self, beta: float | Tensor, *, prior: Prior = "model") -> Target:
        r"""Return the density with its likelihood to a power.

        .. math:: \log p_\beta(q) = \log \pi(q) + \beta \log p(y \mid q)

        The temperature is an input of every graph: another one recompiles nothing. Of
        a target that is tempered already this gives another temperature; the two are
        not multiplied. The pointwise log-likelihood stays that of the data as they
        are. With summed-out discrete latents the power is that of their sum.

        Args:
            beta: inverse temperature, at least 0; 0 leaves the prior alone.
            prior: `"model"` for the target's own with log-Jacobians, None for none
                (the power of the likelihood alone), or a
                :class:`~pyro_geo.density.Localisation` in its place.

        Returns:
            The target. Its data are `beta`, the centre and strength of a localisation
            if there is one, and those of this target; :meth:`with_data` takes them in
            that order.

        Example:
            >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
            >>> target.tempered(0.5).log_prob(torch.ones(1, 2)).tolist()
            [-1.0]
        """
        if not isinstance(beta, Tensor):
            check_number("beta", beta)
        own = [beta, *prior] if isinstance(prior, Localisation) else [beta]
        numbers = [
            torch.as_tensor(x, dtype=self.dtype, device=self.device) for x in own
        ]
        kind = type(prior).__name__ if isinstance(prior, Localisation) else prior
        if self._temper == kind:  # tempered already: its own numbers are replaced
            return self.bind((*numbers, *self.data[len(numbers) :]))
        check(self._temper is _NOT_TEMPERED, "prior", prior, "that of the target")
        # one target for each kind of prior, so that graphs are shared by temperatures
        tempered = self._tempered.get(kind)
        data = (*numbers, *self.data)
        if tempered is None:
            density = temper(self.density, prior)
            tempered = Target(density, data, dtype=self.dtype, compile=self.compile)
            tempered._temper = kind
            self._tempered[kind] = tempered
        assert isinstance(tempered, Target)
        return tempered.bind(data).with_rung(self._rung)

    # -- other data -------------------------------------------------------------------

    def with_data(self, *args: Any, **kwargs: Any) -> Self:
        """Return the same target on new data of the same shapes, nothing recompiled.

        Args:
            *args: arguments as given when the target was made (for a module: its
                inputs and targets).
            **kwargs: keyword arguments likewise.

        Returns:
            A target that shares every compiled function with this one.

        Raises:
            ShapeError: a tensor differs in shape or type, or their number differs.
        """
        data = cast(self.density.rebind(*args, **kwargs), self.dtype)
        found = [(tuple(t.shape), t.dtype) for t in data]
        expected = [(tuple(t.shape), t.dtype) for t in self.data]
        if found != expected:
            raise ShapeError(
                "new data do not match the old",
                where="arguments of with_data",
                found=str(found),
                expected=str(expected),
                todo="Make a new target for data of another shape.",
            )
        self.density.check_data(data)
        return self.bind(data)
