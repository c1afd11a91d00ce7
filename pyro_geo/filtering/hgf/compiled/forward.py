"""The filter over time for a block of lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_geo.filtering.hgf.compiled.earlier import classic, ehgf
from pyro_geo.filtering.hgf.compiled.lanes import load, store
from pyro_geo.filtering.hgf.compiled.levels import (
    add,
    answer,
    choose,
    fold,
    message,
    multiply,
    observe_binary,
    observe_gaussian,
    predict,
    subtract,
    surprise_gaussian,
    walk_at,
)
from pyro_geo.filtering.hgf.compiled.links import unbounded
from pyro_geo.filtering.hgf.compiled.memory import (
    CHUNK,
    CLASSIC,
    EHGF,
    EHGF_PYHGF,
    UNBOUNDED,
    Data,
    Places,
    Problem,
    Results,
    bring,
    part,
)

__all__ = ["forward", "predict_levels"]


@part
def predict_levels(work: Any, at: Places, levels: int, old: int, inputs: int) -> None:
    """Predict all levels from the beliefs at `old`, the highest first."""
    w = at.width
    time, log_time = load(work, inputs + 2 * w), load(work, inputs + 3 * w)
    for i in range(levels):
        level = levels - 1 - i
        own = at.parameters + level * w
        hat = at.hat + 4 * level * w
        mu_hat, pi_hat, gamma, walk = predict(
            load(work, old + 2 * level * w),
            load(work, old + (2 * level + 1) * w),
            load(work, hat + 4 * w),
            load(work, own),
            load(work, own + levels * w),
            load(work, own + 4 * levels * w),
            load(work, own + 5 * levels * w),
            load(work, own + 6 * levels * w),
            time,
            log_time,
        )
        store(work, hat, mu_hat)
        store(work, hat + w, pi_hat)
        store(work, hat + 2 * w, gamma)
        store(work, hat + 3 * w, walk)


@part
def _note_failures(
    work: Any, at: Places, place: int, level: int, step: int, n: int
) -> None:
    """Leave what is no precision at its prediction; note the first of a lane."""
    w = at.width
    for lane in range(w):
        pi = work[place + w + lane]
        if not (pi > 0.0 and pi < np.inf):
            work[place + lane] = work[at.hat + 4 * level * w + lane]
            work[place + w + lane] = work[at.hat + (4 * level + 1) * w + lane]
            first = at.flags + 2 * w + lane
            work[first] = min(work[first], work.dtype.type(step * n + level))


@part
def _update(
    work: Any, at: Places, problem: Problem, level: int, old: int, new: int, inputs: int
) -> None:
    """Update a level by the one below it."""
    w, levels = at.width, problem.levels
    hat, below = at.hat + 4 * level * w, at.hat + 4 * (level - 1) * w
    child = new + 2 * (level - 1) * w
    own = at.parameters + (level - 1) * w
    mu_hat, pi_hat = load(work, hat), load(work, hat + w)
    kappa = load(work, own + levels * w)
    alpha, beta = message(
        load(work, child),
        load(work, child + w),
        load(work, below),
        load(work, old + (2 * (level - 1) + 1) * w),
    )
    p, gamma = load(work, below + w), load(work, below + 2 * w)
    walk = load(work, below + 3 * w)
    if problem.coupled:
        mean = mu_hat
        weight = multiply(load(work, own + 6 * levels * w), load(work, inputs + 2 * w))
        mu_hat, pi_hat = fold(
            mu_hat, pi_hat, load(work, child), load(work, below), p, weight
        )
        gamma, walk, p = walk_at(gamma, kappa, subtract(mu_hat, mean), alpha)
    if problem.update == UNBOUNDED:
        mu, pi = unbounded(alpha, beta, kappa, gamma, walk, p, mu_hat, pi_hat)
    elif problem.update == EHGF:
        mu, pi = ehgf(alpha, beta, kappa, walk, p, mu_hat, pi_hat)
    else:
        at_prior = load(work, at.flags + w)
        mu, pi = classic(alpha, beta, kappa, walk, p, mu_hat, pi_hat, at_prior)
    seen = load(work, inputs + w)
    place = new + 2 * level * w
    store(work, place, choose(seen, mu, load(work, hat)))
    store(work, place + w, choose(seen, pi, load(work, hat + w)))


@part
def forward(
    work: Any,
    at: Places,
    problem: Problem,
    data: Data,
    out: Results,
    block: int,
    keep: int,
) -> None:
    """Filter a block; `keep` steps of its path are kept."""
    w, levels = at.width, problem.levels
    size = 2 * levels * w
    own = at.parameters
    fallible = problem.update == CLASSIC or problem.update == EHGF_PYHGF
    wants_surprise = out.surprise.size > 0 or out.total.size > 0
    # as beliefs lie in a path: mean and precision by level
    old = at.path + keep * size
    for level in range(levels):
        store(work, old + 2 * level * w, load(work, own + (2 * levels + level) * w))
        store(
            work, old + (2 * level + 1) * w, load(work, own + (3 * levels + level) * w)
        )
    precision = load(work, own + 7 * levels * w)
    noise = load(work, at.flags)
    for step in range(problem.steps):
        if step % CHUNK == 0:
            bring(work, at, problem, data, block, step)
        inputs = at.inputs + 5 * (step % CHUNK) * w
        new = at.path + (step % keep) * size
        predict_levels(work, at, levels, old, inputs)
        mu_hat, pi_hat = load(work, at.hat), load(work, at.hat + w)
        u, seen = load(work, inputs), load(work, inputs + w)
        if problem.binary:
            mu, pi, surprise = observe_binary(u, mu_hat, pi_hat)
            if problem.responds:
                surprise = answer(load(work, inputs + 4 * w), precision, mu_hat)
            store(work, at.scratch, surprise)
        else:
            mu, pi = observe_gaussian(u, precision, mu_hat, pi_hat)
            if wants_surprise:
                surprise = surprise_gaussian(u, precision, mu_hat, pi_hat, noise)
                store(work, at.scratch, surprise)
        store(work, new, choose(seen, mu, mu_hat))
        store(work, new + w, choose(seen, pi, pi_hat))
        for level in range(1, levels):
            _update(work, at, problem, level, old, new, inputs)
            if fallible:
                _note_failures(work, at, new + 2 * level * w, level, step, levels)
        if wants_surprise:
            _report(work, at, problem, out, block, step, inputs)
        if out.mu.size > 0:
            _show(work, at, problem, out, block, step, new)
        old = new


@part
def _report(
    work: Any,
    at: Places,
    problem: Problem,
    out: Results,
    block: int,
    step: int,
    inputs: int,
) -> None:
    """Give out the surprise of a step, NaN from the first failure on."""
    w = at.width
    zero = load(work, at.hat + 4 * problem.levels * w)
    surprise = load(work, at.scratch)
    if not problem.responds:
        surprise = choose(load(work, inputs + w), surprise, zero)
    store(work, at.flags + 3 * w, add(load(work, at.flags + 3 * w), surprise))
    if out.surprise.size > 0:
        store(work, at.scratch, surprise)
        end = (step + 1) * problem.levels
        for lane in range(min(w, problem.lanes - block * w)):
            value = work[at.scratch + lane]
            if work[at.flags + 2 * w + lane] < end:
                value = np.nan
            out.surprise[block * w + lane, step] = value


@part
def _show(
    work: Any,
    at: Places,
    problem: Problem,
    out: Results,
    block: int,
    step: int,
    new: int,
) -> None:
    """Give out the beliefs of a step, NaN from the first failure on."""
    w, levels = at.width, problem.levels
    for lane in range(min(w, problem.lanes - block * w)):
        failed = work[at.flags + 2 * w + lane]
        for level in range(levels):
            mu = work[new + 2 * level * w + lane]
            pi = work[new + (2 * level + 1) * w + lane]
            if failed <= step * levels + level:
                mu = pi = np.nan
            out.mu[block * w + lane, step, level] = mu
            out.pi[block * w + lane, step, level] = pi
