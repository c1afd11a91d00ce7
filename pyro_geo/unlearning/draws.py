r"""Deletion from draws: weights, moved draws, tempered particles, and a refit at last.

.. math:: p(\theta \mid R) \propto p(\theta \mid D) / p(F \mid \theta)
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.density import Target
from pyro_geo.engine import SequentialNoise
from pyro_geo.errors import UnreliableWeightsError, UnreliableWeightsWarning
from pyro_geo.evaluation.moment_matching import Matched, khat_limit, match_moments
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.fits.draws import in_order, read_any
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.weights import systematic
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.unlearning._forget_set import read_forget
from pyro_geo.unlearning._local import marginal_of
from pyro_geo.unlearning._parts import Parts
from pyro_geo.unlearning._tempering import Moves, Tempered, temper_away

__all__ = ["Rung", "delete_draws"]

Rung = Literal["psis", "moment_matching", "smc", "refit"]

_PARTICLES = 2000  # of the tempered path at most
_CHAINS = 4  # of a refit, where the fit does not say


def delete_draws(
    fit: Any,
    forget: Any,
    *,
    target: Target | None = None,
    fallback: Literal["smc", "refit", "raise", "none"] = "smc",
    start: Rung = "psis",
    limit: float | None = None,
    moves: Moves = "hmc",
    num_particles: int | None = None,
    seed: int = 0,
) -> PosteriorDraws:
    r"""Delete data from draws of a posterior, by the cheapest way that can be trusted.

    The ladder climbs by itself:

    1. Weights :math:`w_s = 1 / p(F \mid \theta_s)`, smoothed (`"psis"`). The shape
       `khat` of their tail says whether they can be trusted.
    2. Draws moved towards the posterior without the data, by the moments of the
       weighted ones (`"moment_matching"`).
    3. Particles through :math:`p(\theta) p(R \mid \theta) p(F \mid \theta)^\tau`,
       :math:`\tau` from 1 to 0 (`"smc"`).
    4. A new run on what stays (`"refit"`), where particles do not move.

    Latents that belong to the rows alone, such as a patient's own effect, are
    integrated out of the weights, and are not in the result. The fit and its store
    are left as they are.

    Args:
        fit: any result of ours; or a `pyro.infer.MCMC`, ArviZ data, or draws by site,
            with `target`.
        forget: what goes: indices or a mask of the rows of the data's plate, or a
            dictionary from a plate or an observed site to them.
        target: density of the model at all its data; that of the result if None.
        fallback: where weights of moved draws cannot be trusted: `"smc"` climbs on,
            `"refit"` leaves the third rung out, `"raise"` raises, `"none"` returns
            them with a warning.
        start: first rung to try.
        limit: largest trusted `khat`; that for the number of draws if None
            (:func:`~pyro_geo.evaluation.moment_matching.khat_limit`).
        moves: of the particles.
        num_particles: on the third rung; the draws, but at most 2000, if None.
        seed: of everything random.

    Returns:
        Draws of the posterior without the data, with weights on the first two rungs.
        Attributes tell the `rung`, `khat` before and after, `ess` and the stages. Its
        target holds the data that stay alone, wherever arguments of the model can be
        split by rows. What is no forget set raises
        :class:`~pyro_geo.errors.ForgetSetError`, data that are impossible at a draw
        :class:`~pyro_geo.errors.NonFiniteDataError`.

    Raises:
        UnreliableWeightsError: weights cannot be trusted, under `fallback="raise"`.

    Warns:
        UnreliableWeightsWarning: weights cannot be trusted, under `fallback="none"`.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, 1507.02646;
        Paananen et al. (2021), Implicitly adaptive importance sampling, 1906.08850; the
        tempered path is derived.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.tensor([0.0, 0.5, 1.0]))
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = 0.375 + 0.5 * torch.randn(1, 1000, 1, generator=generator)
        >>> fit = PosteriorDraws(target, MemoryDraws(target, q))
        >>> less = delete_draws(fit, [2])
        >>> less.attributes["rung"], round(float(less.summary()["mean"].iloc[0]), 1)
        ('psis', 0.2)
    """
    check_choice("fallback", fallback, ("smc", "refit", "raise", "none"))
    rungs = ("psis", "moment_matching", "smc", "refit")
    check_choice("start", start, rungs)
    check_choice("moves", moves, ("hmc", "random_walk"))
    check_number("limit", limit)
    check_count("num_particles", num_particles, 2)
    source = _read(fit, target)
    parts = Parts(source.target, read_forget(forget, source.target))
    limit = khat_limit(len(source.q)) if limit is None else limit
    first = rungs.index(start)
    facts: dict[str, Any] = {"forgotten": parts.forget.num_data}
    if first < 2:
        found = _weighted(parts, source, limit, only=first == 0, facts=facts)
        if first == 0 and found.khat > limit:
            found = _weighted(parts, source, limit, only=False, facts=facts)
        if found.khat <= limit or fallback == "none":
            if found.khat > limit:
                message = _message(found, limit)
                warnings.warn(UnreliableWeightsWarning(*message), stacklevel=2)
            return _with_weights(parts, found, facts, seed)
        if fallback == "raise":
            raise UnreliableWeightsError(*_message(found, limit))
    if first < 3 and fallback != "refit":
        count = min(len(source.q), num_particles or _PARTICLES)
        tempered = _particles(parts, source, count, moves, seed)
        if tempered.good:
            return _with_particles(parts, tempered, facts, seed)
        facts["smc_moved"] = tempered.moved
    return _refit(parts, source, facts, seed)


class _Source(NamedTuple):
    """Draws of the posterior of all data.

    Attributes:
        target: its density.
        q: positions, `(draws, dim)`.
        log_weights: `(draws,)`; None where all are equal.
        fit: where they come from.
        num_chains: they consist of.
    """

    target: Target
    q: Tensor
    log_weights: Tensor | None
    fit: Any
    num_chains: int


def _read(fit: Any, target: Target | None) -> _Source:
    if isinstance(fit, PosteriorDraws):
        own = fit.target
        check(target is None or target is own, "target", target, "None for a result")
        weights = fit.log_weights
        q = fit.positions
        q = q.flatten(0, -2)
        return _Source(own, q, weights, fit, fit.positions.shape[0])
    expected = "the density of the model at all its data, by Target.from_model"
    check(target is not None, "target", None, expected)
    assert target is not None
    flat = read_any(fit, target)
    q = in_order(flat, target.layout).to(target.device)
    return _Source(target, q, flat.log_weights, fit, flat.q.shape[0])


def _weighted(
    parts: Parts, source: _Source, limit: float, *, only: bool, facts: dict[str, Any]
) -> Matched:
    """Weigh draws as they are (`only`), or moved; local latents are left out."""
    q = parts.positions(source.q)
    marginal = marginal_of(parts, source.q)

    def wanted(rows: Tensor) -> Tensor:
        return map_chunks(parts.stays.log_prob, rows).double()

    def sampled(rows: Tensor) -> Tensor:
        return wanted(rows) + marginal(rows)

    goes = marginal(q)
    # weights of draws as they are need what goes alone, not the density of all data
    stays = torch.zeros_like(goes) if only else wanted(q)
    found = match_moments(
        q,
        sampled,
        wanted,
        at_draws=(stays + goes, stays),
        log_weights=source.log_weights,
        limit=limit,
        max_steps=0 if only else 30,
    )
    if only:
        facts["khat_before"] = found.khat
    return found


def _with_weights(
    parts: Parts, found: Matched, facts: dict[str, Any], seed: int
) -> PosteriorDraws:
    rung: Rung = "moment_matching" if found.steps else "psis"
    facts |= {
        "rung": rung,
        "khat": found.khat,
        "ess": found.ess,
        "stages": " ".join(found.steps),
    }
    return _result(parts, found.q, found.log_weights, facts, seed)


def _particles(
    parts: Parts, source: _Source, count: int, moves: Moves, seed: int
) -> Tempered:
    noise = SequentialNoise(seed)
    q, weights = source.q, source.log_weights
    if count < len(q) or weights is not None:
        plain = torch.zeros(len(q)) if weights is None else weights
        uniform = noise.uniform(1, dtype=torch.float64)[0]
        rows = systematic(plain.to(q.device), uniform.to(q.device), count)
        q, weights = q[rows], None
    return temper_away(parts, q, weights, noise, moves=moves)


def _with_particles(
    parts: Parts, found: Tempered, facts: dict[str, Any], seed: int
) -> PosteriorDraws:
    facts |= {
        "rung": "smc",
        "ess": found.ess,
        "stages": len(found.powers),
        "powers": " ".join(f"{power:.4g}" for power in found.powers),
        "acceptance_rate": found.acceptance,
    }
    return _result(parts, parts.positions(found.q), None, facts, seed)


def _result(
    parts: Parts,
    q: Tensor,
    log_weights: Tensor | None,
    facts: dict[str, Any],
    seed: int,
) -> PosteriorDraws:
    """Every draw is a chain of its own, as particles are."""
    weights = None if log_weights is None else log_weights[:, None]
    return PosteriorDraws(
        parts.stays,
        MemoryDraws(parts.stays, q[:, None].contiguous()),
        log_weights=weights,
        attributes={"kernel": "delete_draws", "seed": seed, **facts},
        notes=_notes(parts),
        citations=("psis", "moment_matching"),
        chain_name="particle",
        seed=seed,
    )


def _notes(parts: Parts) -> list[str]:
    if parts.apart is not None:
        return []
    return [
        "The arguments of the model could not be split by rows: the target still holds "
        "the deleted data, with weight zero."
    ]


def _refit(
    parts: Parts, source: _Source, facts: dict[str, Any], seed: int
) -> PosteriorDraws:
    """Run a chain on what stays, from draws of the fit."""
    stays, fit = parts.stays, source.fit
    own = isinstance(fit, MCMC) and isinstance(fit.kernel, HMC)
    chains = fit.num_chains if own else min(_CHAINS, len(source.q))
    samples = fit.num_samples if own else math.ceil(len(source.q) / chains)
    kernel: Any = HMC(stays)
    if own:
        kernel = copy.copy(fit.kernel)
        kernel.model, kernel.potential_fn = stays, None
    rows = torch.linspace(0, len(source.q) - 1, chains).round().long()
    start = parts.positions(source.q[rows.to(source.q.device)]).to(stays.dtype)
    run = MCMC(
        kernel,
        num_samples=samples,
        num_chains=chains,
        initial_params=stays.layout.unflatten(start),
        initial_space="unconstrained",
        seed=seed,
        progress_bar=False,
    ).run()
    facts |= {"rung": "refit", "stages": 1}
    return PosteriorDraws(
        stays,
        MemoryDraws(stays, run.positions, run.stats),
        attributes={**run.attributes, **facts},
        notes=[*run.notes, *_notes(parts)],
        citations=run.citations,
        seed=seed,
    )


def _message(found: Matched, limit: float) -> tuple[str, str, str, str, str]:
    return (
        "weights of the deletion have too heavy a tail",
        "delete_draws",
        f"khat {found.khat:.2f}, {found.ess:.0f} effective draws",
        f"khat of at most {limit:.2f}",
        "Leave fallback at 'smc', or refit.",
    )
