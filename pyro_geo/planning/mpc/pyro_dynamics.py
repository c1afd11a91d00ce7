"""A Pyro model of one step as dynamics: any model, at draws of its posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.pyro import Subsample
from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.density.ladder import Rung
from pyro_geo.density.model import evaluation_mode
from pyro_geo.density.structure import first_line, is_deterministic, random_sites
from pyro_geo.errors import ModelError, PyroGeoError, UnsupportedModelError
from pyro_geo.ops.random import private_randomness
from pyro_geo.planning.mpc.draws import Pool
from pyro_geo.planning.mpc.dynamics import Dynamics, box_of
from pyro_geo.planning.mpc.site_noise import noise_shape, value_of

__all__ = ["PyroDynamics"]

StepModel = Callable[[Tensor, Tensor], Any]
Cost = Callable[[Tensor, Tensor, Tensor], Tensor]


class _GivenNoise(Messenger):
    """Give latent sites their draws, and make all others from given noise."""

    def __init__(self, latents: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.latents, self.noise = latents, noise

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if isinstance(fn, Subsample) or msg["done"] or is_deterministic(msg):
            return
        if name in self.latents:
            value = self.latents[name]
            wanted = fn.batch_shape + fn.event_shape
            value = value.reshape(wanted) if value.shape != wanted else value
        elif name in self.noise:
            value = value_of(fn, self.noise[name])
        else:
            return
        msg["value"], msg["done"] = value, True


class PyroDynamics(Dynamics):
    r"""Dynamics given as a Pyro model of one step.

    .. math:: s' = \texttt{model}(s, a), \qquad \theta \sim p(\theta \mid D)

    Sites that the draws name are the unknown :math:`\theta`: they keep the value of
    their draw over the whole plan. Other sites are the noise of a step: those whose
    distribution depends on the state or the action, and those named in `noise_sites`.
    A site that is neither is refused, because it may be a parameter whose draws were
    left out. Noise is
    made from standard normal numbers that are the same for all candidates (normal and
    Student-t distributions, all with a quantile function or finitely many values,
    gamma, Beta and Dirichlet, and transforms of these). The model sees one state and
    one action; it is vectorised over draws and candidates, and traced once.

    Args:
        model: `model(s, a)` for `s` `(n,)` and `a` `(m,)`, returning the next state,
            `(n,)`.
        cost: `cost(s, a, s_next)` for any leading axes, `(..., n)` and `(..., m)`;
            lower is better, `(...)`.
        state_dim: numbers in a state, `n`.
        action_space: a `Box` of Gymnasium; or pass `lower` and `upper`.
        lower: lower bounds of an action, `(m,)`.
        upper: upper bounds of an action, `(m,)`.
        noise_sites: sites that are drawn anew at each step although they depend on
            neither state nor action; also where the draws name them.
        state_names: names of the numbers of a state, for pictures.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def step(s, a):
        ...     push = pyro.sample("push", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("next", dist.Normal(s + push * a, 0.1).to_event(1))
        >>> def cost(s, a, s_next):
        ...     return s_next.square().sum(-1)
        >>> PyroDynamics(step, cost, state_dim=1, lower=[-1.0], upper=[1.0])
        PyroDynamics(step, 1 state, 1 action)
    """

    rung: Rung = "traced"

    def __init__(
        self,
        model: StepModel,
        cost: Cost,
        *,
        state_dim: int,
        action_space: Any = None,
        lower: Any = None,
        upper: Any = None,
        noise_sites: Iterable[str] = (),
        state_names: tuple[str, ...] = (),
    ) -> None:
        check_count("state_dim", state_dim)
        one = (action_space is None) == (lower is not None and upper is not None)
        check(one, "action_space", "both or none", "a space, or lower and upper")
        self.model, self._cost, self.state_dim = model, cost, state_dim
        self.box = box_of(action_space, lower, upper)
        self.state_names = tuple(state_names)
        self.noise_dim = 0
        one = isinstance(noise_sites, str)
        check(not one, "noise_sites", repr(noise_sites), "names, in a tuple or list")
        self._named = tuple(noise_sites)
        self._latents: tuple[str, ...] = ()
        self._noise: dict[str, tuple[slice, tuple[int, ...]]] = {}

    @property
    def latent_sites(self) -> tuple[str, ...]:
        """Sites that keep the value of their draw, once the dynamics have draws."""
        return self._latents

    @property
    def noise_sites(self) -> tuple[str, ...]:
        """Sites that are drawn anew at each step, once the dynamics have draws."""
        return tuple(self._noise)

    def leaves(self, pool: Pool, rows: Tensor) -> tuple[Tensor, ...]:
        """Take draws of the latent sites; see :meth:`Dynamics.leaves`."""
        values = pool.values
        check(
            isinstance(values, dict),
            "draws",
            "a tensor without names",
            "sites by name, or a result that has them",
        )
        assert isinstance(values, dict)
        if not self._latents:
            self._learn_sites(values)
        return tuple(values[name][rows] for name in self._latents)

    def _learn_sites(self, values: dict[str, Tensor]) -> None:
        """Run the model once: what its sites are, and that it is a function."""
        first = {name: x[0] for name, x in values.items()}
        like = next(iter(values.values()))
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        assert self.box is not None
        s = torch.full((self.state_dim,), 0.1, dtype=dtype, device=like.device)
        a = ((self.box.lower + self.box.upper) / 2).to(s)
        trace = self._traced(s, a, first, {}, dtype)
        sites = random_sites(trace)
        for name in self._named:
            check(name in sites, "noise_sites", name, f"sites of {sorted(sites)}")
        given = set(values) - set(self._named)
        latents = tuple(name for name in sites if name in given)
        if not latents:
            raise ModelError(
                "no site of the model is among the draws",
                where="argument draws",
                found=f"draws of {sorted(values)}, sites {sorted(sites)}",
                expected="draws of what is unknown in the model",
                todo="Pass draws under the names of the sites.",
            )
        at = 0
        for name, site in sites.items():
            if name in latents or is_deterministic(site) or site["is_observed"]:
                continue
            shape = noise_shape(site["fn"], name)
            size = math.prod(shape)
            self._noise[name] = (slice(at, at + size), shape)
            at += size
        self.noise_dim, self._latents = at, latents
        self._refuse_ambiguous(s, a, {name: first[name] for name in latents})
        zero = torch.zeros(at, dtype=dtype, device=like.device)
        start = tuple(first[name] for name in latents)
        found: list[Tensor] = []
        for seed in (0, 1):
            with torch.no_grad(), private_randomness(seed):
                found.append(self._one(start, s, a, zero))
        after, again = found
        check_shape("what the model returns", after.shape, (self.state_dim,))
        if not torch.equal(after.nan_to_num(), again.nan_to_num()):
            raise UnsupportedModelError(
                "the step draws random numbers outside its sites",
                where="argument model",
                found="two next states from one state, action and noise",
                expected="randomness in sample statements alone",
                todo="Write each draw as pyro.sample.",
            )

    def _refuse_ambiguous(
        self, s: Tensor, a: Tensor, latents: dict[str, Tensor]
    ) -> None:
        """Refuse sites that may be parameters without draws.

        Raises:
            ModelError: a site depends on neither state nor action, and is not named.
        """
        open_sites = set(self._noise) - set(self._named)
        assert self.box is not None
        lower, upper = self.box.lower.to(s), self.box.upper.to(s)
        g = torch.Generator().manual_seed(0)
        noise = torch.randn(self.noise_dim, generator=g, dtype=s.dtype).to(s)
        parts = self._parts(noise)
        here = self._traced(s, a, latents, parts, s.dtype)
        for _ in range(2):
            share = torch.rand(len(s) + len(a), generator=g, dtype=s.dtype).to(s)
            moved = s + 0.2 * share[: len(s)]
            other = lower + share[len(s) :] * (upper - lower)
            there = self._traced(moved, other, latents, parts, s.dtype)
            for name in list(open_sites):
                site: Any = here.nodes[name]
                other_site: Any = there.nodes[name]
                with evaluation_mode(s.dtype), torch.no_grad():
                    p = site["fn"].log_prob(site["value"])
                    q = other_site["fn"].log_prob(site["value"])
                if not torch.allclose(p, q, rtol=0.0, atol=0.0, equal_nan=True):
                    open_sites.discard(name)
        if open_sites:
            name = next(name for name in self._noise if name in open_sites)
            raise ModelError(
                "a site that may be a parameter or noise",
                where=f"site {name!r}",
                found="no draws of it, and a distribution that depends on neither the "
                "state nor the action",
                expected="draws of each parameter, and the names of noise",
                todo=f"Put {name!r} among the draws, if it is unknown but keeps its "
                f"value; or pass noise_sites=({name!r},), if it is drawn anew at each "
                "step.",
            )

    def _parts(self, noise: Tensor) -> dict[str, Tensor]:
        """Noise of each site."""
        return {n: noise[at].reshape(shape) for n, (at, shape) in self._noise.items()}

    def _traced(
        self,
        s: Tensor,
        a: Tensor,
        latents: dict[str, Tensor],
        noise: dict[str, Tensor],
        dtype: torch.dtype,
    ) -> poutine.Trace:
        handler = _GivenNoise(latents, noise)
        try:
            with torch.no_grad(), private_randomness(0), evaluation_mode(dtype):
                return poutine.trace(handler(self.model)).get_trace(s, a)
        except PyroGeoError:
            raise
        except Exception as reason:  # a user's model may raise anything
            raise ModelError(
                "the model of a step cannot be run",
                where="argument model",
                found=f"{type(reason).__name__}: {first_line(reason)}",
                expected=f"a function of a state {tuple(s.shape)} and an action "
                f"{tuple(a.shape)}",
                todo="Run model(s, a) by hand with tensors of these shapes.",
            ) from reason

    def _one(
        self, latents: tuple[Tensor, ...], s: Tensor, a: Tensor, noise: Tensor
    ) -> Tensor:
        """One step of one state under one draw."""
        named = dict(zip(self._latents, latents, strict=True))
        parts = self._parts(noise)
        with evaluation_mode(s.dtype):
            found = _GivenNoise(named, parts)(self.model)(s, a)
        check(
            isinstance(found, Tensor),
            "model",
            f"a model that returns {type(found).__name__}",
            "one that returns the next state",
        )
        return found

    def step(
        self, draws: tuple[Tensor, ...], s: Tensor, a: Tensor, noise: Tensor
    ) -> Tensor:
        """Make one step; see :meth:`Dynamics.step`."""
        over_draws = torch.func.vmap(self._one, in_dims=(0, 0, None, 0))
        over_plans = torch.func.vmap(over_draws, in_dims=(None, 0, 0, None))
        return over_plans(draws, s, a[:, 0], noise)

    def cost(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Cost of steps; see :meth:`Dynamics.cost`."""
        return self._cost(s, a, s_next)

    def __repr__(self) -> str:
        """Say what it is of."""
        name = getattr(self.model, "__name__", type(self.model).__name__)
        assert self.box is not None
        count, m = self.state_dim, len(self.box.lower)
        sites = ""
        if self._latents:
            sites = f"; unknown {', '.join(self._latents)}"
            sites += f"; noise {', '.join(self._noise) or 'none'}"
        return (
            f"{type(self).__name__}({name}, {count} state{'s' * (count > 1)}, "
            f"{m} action{'s' * (m > 1)}{sites})"
        )
