"""Derivatives of the filter for a block of lanes, from the last step to the first.

The steps are computed again from the beliefs that the way forward has kept.
"""

from __future__ import annotations

from typing import Any

from pyro_geo.filtering.hgf.compiled.earlier import classic_adjoint, ehgf_adjoint
from pyro_geo.filtering.hgf.compiled.forward import predict_levels
from pyro_geo.filtering.hgf.compiled.lanes import load, store
from pyro_geo.filtering.hgf.compiled.levels import (
    add,
    answer_adjoint,
    choose,
    fold,
    fold_adjoint,
    message,
    message_adjoint,
    multiply,
    observe_binary_adjoint,
    observe_gaussian_adjoint,
    predict_adjoint,
    subtract,
    walk_at,
)
from pyro_geo.filtering.hgf.compiled.links import unbounded_adjoint
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
    add_to,
    bring,
    part,
)

__all__ = ["backward"]


@part
def _collect(
    work: Any,
    at: Places,
    problem: Problem,
    data: Data,
    out: Results,
    block: int,
    step: int,
) -> None:
    """Add what is asked of the beliefs and the surprise of a step."""
    w, levels = at.width, problem.levels
    given = data.d_surprise.size > 0
    alone = work.dtype.type(1.0 if out.total.size > 0 else 0.0)
    for lane in range(w):
        row = min(block * w + lane, problem.lanes - 1)
        failed = work[at.flags + 2 * w + lane]
        value = data.d_surprise[row, step] if given else alone
        alive = failed >= (step + 1) * levels
        work[at.scratch + lane] = value if alive else work.dtype.type(0.0)
    if data.d_mu.size > 0:
        for lane in range(w):
            row = min(block * w + lane, problem.lanes - 1)
            failed = work[at.flags + 2 * w + lane]
            for level in range(levels):
                if failed > step * levels + level:
                    place = at.pull + 6 * level * w + lane
                    work[place] += data.d_mu[row, step, level]
                    work[place + w] += data.d_pi[row, step, level]


@part
def _pull_update(
    work: Any, at: Places, problem: Problem, level: int, old: int, new: int, inputs: int
) -> None:
    """Pull back through the update of a level by the one below it."""
    w, levels = at.width, problem.levels
    hat, below = at.hat + 4 * level * w, at.hat + 4 * (level - 1) * w
    child = new + 2 * (level - 1) * w
    own, sums = at.parameters + (level - 1) * w, at.sums + (level - 1) * w
    pull, pull_below = at.pull + 6 * level * w, at.pull + 6 * (level - 1) * w
    zero = load(work, at.hat + 4 * levels * w)
    seen = load(work, inputs + w)
    d_mu, d_pi = load(work, pull), load(work, pull + w)
    # a belief that was left at its prediction
    store(
        work,
        pull + 2 * w,
        choose(seen, load(work, pull + 2 * w), add(load(work, pull + 2 * w), d_mu)),
    )
    store(
        work,
        pull + 3 * w,
        choose(seen, load(work, pull + 3 * w), add(load(work, pull + 3 * w), d_pi)),
    )
    d_mu, d_pi = choose(seen, d_mu, zero), choose(seen, d_pi, zero)
    mu_hat, pi_hat = load(work, hat), load(work, hat + w)
    kappa = load(work, own + levels * w)
    child_mu, child_pi, child_hat = (
        load(work, child),
        load(work, child + w),
        load(work, below),
    )
    alpha, beta = message(
        child_mu, child_pi, child_hat, load(work, old + (2 * (level - 1) + 1) * w)
    )
    child_pi_hat = load(work, below + w)
    p, gamma, walk = child_pi_hat, load(work, below + 2 * w), load(work, below + 3 * w)
    weight, shift = zero, zero
    if problem.coupled:
        mean = mu_hat
        weight = multiply(load(work, own + 6 * levels * w), load(work, inputs + 2 * w))
        mu_hat, pi_hat = fold(mu_hat, pi_hat, child_mu, child_hat, p, weight)
        shift = subtract(mu_hat, mean)
        gamma, walk, p = walk_at(gamma, kappa, shift, alpha)
    if problem.update == UNBOUNDED:
        by_alpha, by_beta, d_kappa, d_gamma, d_pi_hat = unbounded_adjoint(
            alpha, beta, kappa, gamma, walk, p, pi_hat, d_mu, d_pi
        )
    elif problem.update == EHGF:
        by_alpha, by_beta, d_kappa, d_gamma, d_pi_hat = ehgf_adjoint(
            alpha, beta, kappa, walk, p, pi_hat, d_mu, d_pi
        )
    else:
        at_prior = load(work, at.flags + w)
        by_alpha, by_beta, d_kappa, d_gamma, d_pi_hat = classic_adjoint(
            alpha, beta, kappa, walk, p, pi_hat, at_prior, d_mu, d_pi
        )
        good = load(work, at.scratch + w)
        by_alpha, by_beta = choose(good, by_alpha, zero), choose(good, by_beta, zero)
        d_kappa, d_gamma = choose(good, d_kappa, zero), choose(good, d_gamma, zero)
        d_pi_hat = choose(good, d_pi_hat, zero)
    # gamma with its mean above is pulled back by the prediction
    add_to(work, pull_below + 4 * w, d_gamma)
    add_to(work, sums + levels * w, d_kappa)
    if problem.coupled:
        add_to(work, sums + levels * w, multiply(d_gamma, shift))
        d_shift = multiply(d_gamma, kappa)
        d_pi_hat, d_error, d_child, d_weight = fold_adjoint(
            pi_hat,
            child_mu,
            child_hat,
            child_pi_hat,
            weight,
            add(d_mu, d_shift),
            d_pi_hat,
        )
        add_to(work, pull_below, d_error)
        add_to(work, pull_below + 2 * w, subtract(zero, d_error))
        add_to(work, pull_below + 3 * w, d_child)
        add_to(
            work, sums + 6 * levels * w, multiply(d_weight, load(work, inputs + 2 * w))
        )
    add_to(work, pull + 2 * w, d_mu)
    add_to(work, pull + 3 * w, d_pi_hat)
    d_mu, d_pi, d_mu_hat, d_before = message_adjoint(
        child_mu, child_pi, child_hat, alpha, beta, by_alpha, by_beta
    )
    add_to(work, pull_below, d_mu)
    add_to(work, pull_below + w, d_pi)
    add_to(work, pull_below + 2 * w, d_mu_hat)
    add_to(work, pull_below + 5 * w, d_before)


@part
def _pull_observation(work: Any, at: Places, problem: Problem, inputs: int) -> None:
    """Pull back through the update of the lowest level, and the surprise."""
    w, levels = at.width, problem.levels
    zero = load(work, at.hat + 4 * levels * w)
    u, seen = load(work, inputs), load(work, inputs + w)
    mu_hat, pi_hat = load(work, at.hat), load(work, at.hat + w)
    d_mu, d_pi = load(work, at.pull), load(work, at.pull + w)
    d_surprise = load(work, at.scratch)
    if problem.binary:
        if problem.responds:
            d_answer, d_zeta = answer_adjoint(
                load(work, inputs + 4 * w),
                load(work, at.parameters + 7 * levels * w),
                mu_hat,
                d_surprise,
            )
            add_to(work, at.sums + 7 * levels * w, d_zeta)
            add_to(work, at.pull + 2 * w, d_answer)
            d_surprise = zero
        d_mu_hat, d_pi_hat = observe_binary_adjoint(
            u, mu_hat, pi_hat, d_mu, d_pi, d_surprise
        )
    else:
        d_u, d_input, d_mu_hat, d_pi_hat = observe_gaussian_adjoint(
            u,
            load(work, at.parameters + 7 * levels * w),
            mu_hat,
            pi_hat,
            load(work, at.flags),
            d_mu,
            d_pi,
            d_surprise,
        )
        add_to(work, at.sums + 7 * levels * w, choose(seen, d_input, zero))
        store(work, at.scratch, choose(seen, d_u, zero))
    add_to(work, at.pull + 2 * w, choose(seen, d_mu_hat, d_mu))
    add_to(work, at.pull + 3 * w, choose(seen, d_pi_hat, d_pi))


@part
def _pull_predictions(
    work: Any, at: Places, problem: Problem, old: int, inputs: int
) -> None:
    """Pull back to the beliefs before the step, the lowest level first."""
    w, levels = at.width, problem.levels
    time = load(work, inputs + 2 * w)
    for level in range(levels):
        own, sums = at.parameters + level * w, at.sums + level * w
        hat, pull = at.hat + 4 * level * w, at.pull + 6 * level * w
        d_mu, d_pi, d_above, d_omega, d_kappa, d_drift, d_rate, d_value = (
            predict_adjoint(
                load(work, old + 2 * level * w),
                load(work, old + (2 * level + 1) * w),
                load(work, hat + 4 * w),
                load(work, own + levels * w),
                load(work, own + 5 * levels * w),
                load(work, own + 6 * levels * w),
                time,
                load(work, hat + w),
                load(work, hat + 3 * w),
                load(work, pull + 2 * w),
                load(work, pull + 3 * w),
                load(work, pull + 4 * w),
            )
        )
        store(work, pull, d_mu)
        store(work, pull + w, add(d_pi, load(work, pull + 5 * w)))
        add_to(work, sums, d_omega)
        add_to(work, sums + 4 * levels * w, d_drift)
        add_to(work, sums + 5 * levels * w, d_rate)
        if level < levels - 1:
            add_to(work, pull + 8 * w, d_above)
            add_to(work, sums + levels * w, d_kappa)
            if problem.coupled:
                add_to(work, sums + 6 * levels * w, d_value)


@part
def backward(
    work: Any, at: Places, problem: Problem, data: Data, out: Results, block: int
) -> None:
    """Pull back through a block whose whole path is kept."""
    w, levels, steps = at.width, problem.levels, problem.steps
    size = 2 * levels * w
    zero = load(work, at.hat + 4 * levels * w)
    for k in range(7 * levels + 1):
        store(work, at.sums + k * w, zero)
    for k in range(6 * levels):
        store(work, at.pull + k * w, zero)
    for back in range(steps):
        step = steps - 1 - back
        if back == 0 or step % CHUNK == CHUNK - 1:
            bring(work, at, problem, data, block, step - step % CHUNK)
        inputs = at.inputs + 5 * (step % CHUNK) * w
        new = at.path + step * size
        old = new - size if step > 0 else at.path + steps * size
        _collect(work, at, problem, data, out, block, step)
        predict_levels(work, at, levels, old, inputs)
        for level in range(levels):
            for k in range(2, 6):
                store(work, at.pull + (6 * level + k) * w, zero)
        for back_level in range(1, levels):
            level = levels - back_level
            if problem.update == CLASSIC or problem.update == EHGF_PYHGF:
                for lane in range(w):
                    failed = work[at.flags + 2 * w + lane]
                    good = failed > step * levels + level
                    work[at.scratch + w + lane] = 1.0 if good else 0.0
            _pull_update(work, at, problem, level, old, new, inputs)
        _pull_observation(work, at, problem, inputs)
        if out.d_u.size > 0:
            for lane in range(min(w, problem.lanes - block * w)):
                out.d_u[block * w + lane, step] = work[at.scratch + lane]
        _pull_predictions(work, at, problem, old, inputs)
    for level in range(levels):
        pull = at.pull + 6 * level * w
        store(work, at.sums + (2 * levels + level) * w, load(work, pull))
        store(work, at.sums + (3 * levels + level) * w, load(work, pull + w))
