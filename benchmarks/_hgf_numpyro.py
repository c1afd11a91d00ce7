"""NumPyro's side of the cohort benchmark: the same filter as a scan, under its NUTS."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from _hgf_cohorts import (
    BEND,
    FASTEST,
    MU0,
    PI0,
    PRIOR,
    SITES,
    Cohort,
)
from _hmc_common import Run
from _hmc_numpyro import compile_sampler, sample

# Peers of the `bench` extra: not there where only `dev` is installed.
jax: Any = importlib.import_module("jax")
jnp: Any = importlib.import_module("jax.numpy")
numpyro: Any = importlib.import_module("numpyro")
dist: Any = importlib.import_module("numpyro.distributions")
infer: Any = importlib.import_module("numpyro.infer")
reparam: Any = importlib.import_module("numpyro.infer.reparam")

__all__ = ["cohort_model", "gradient", "run"]

_EDGE = 1e-6  # of predicted probabilities


def wright_omega(z: Any) -> Any:
    """Solve `w + log w = z`: the iterations fixed, one more for the derivative."""
    x = jnp.exp(jnp.minimum(z, 1.0))
    low = x * (60 + x * (114 + 17 * x)) / (60 + x * (174 + 101 * x))
    big = jnp.where(z > 1, z, 1.0)
    log = jnp.log(big)
    high = big - log + log / big
    w = jnp.where(z > 1, jnp.where(z > 1, high, 1.0), low)
    tiny = z < -30
    safe = jnp.where(tiny, 0.0, z)
    w = jnp.where(tiny, 1.0, w)
    residual = safe - w - jnp.log(w)
    q = residual / (1 + w)
    a = 2 * (1 + w) * (1 + 2 * q / 3)
    w = w * (1 + q * (a - q) / (a - 2 * q))
    w = w * (1 + (safe - w - jnp.log(w)) / (1 + w))
    w = jax.lax.stop_gradient(w)
    w = w * (1 + (safe - w - jnp.log(w)) / (1 + w))
    return jnp.where(tiny, jnp.exp(jnp.where(tiny, z, -31.0)), w)


def filter_step(carry: Any, u: Any, omega: Any, top: Any) -> Any:
    """Take in one binary input; coupling and time step are 1.

    Args:
        carry: posterior mean and precision of both levels.
        u: the input.
        omega: tonic volatility of the lower level.
        top: of the upper one.

    Returns:
        The posterior after it, and the prediction before it.
    """
    mu1, pi1, mu2, pi2 = carry
    precision = 1 / (1 / pi2 + jnp.exp(top))
    y = omega + mu2
    pihat = 1 / (1 / pi1 + jnp.exp(y))
    p = jnp.clip(jax.nn.sigmoid(mu1), _EDGE, 1 - _EDGE)
    after = pihat + p * (1 - p)
    mean = mu1 + (u - p) / after
    log_alpha, beta = -jnp.log(pi1), 1 / after + (mean - mu1) ** 2

    def terms(x: Any) -> Any:
        at = y + (x - mu2)
        w = jax.nn.sigmoid(at - log_alpha)
        s = jnp.logaddexp(log_alpha, at)
        ratio = beta * jnp.exp(-s)
        energy = -0.5 * (s + ratio + precision * (x - mu2) ** 2)
        return w, ratio - 1, energy

    w, delta, _ = terms(mu2)
    first = precision + 0.5 * w * (1 - w)
    m1 = mu2 + w * delta / (2 * first)
    z = jnp.log(beta) - jnp.log(2 * precision) + 1 / (2 * precision) - y
    x = mu2 - 1 / (2 * precision) + wright_omega(z)
    w, delta, _ = terms(x)
    full = precision + 0.5 * w * (w + (2 * w - 1) * delta)
    second = jnp.where(full > 0, full, precision + 0.5 * w * (1 - w))
    m2 = x + (0.5 * w * delta - precision * (x - mu2)) / second
    change = terms(m2)[2] - terms(m1)[2]
    b, c = jax.nn.sigmoid(change), jax.nn.sigmoid(-change)
    mixed = jnp.where(b > 0.5, m2 - c * (m2 - m1), m1 + b * (m2 - m1))
    variance = c / first + b / second + b * c * (m1 - m2) ** 2
    return (mean, after, mixed, 1 / variance), mu1


def predictions(u: Any, omega: Any, top: Any) -> Any:
    """Predicted log-odds of each input, `(trials, subjects)`.

    Args:
        u: inputs, `(trials, subjects)`.
        omega: of each subject.
        top: shared by all.

    Returns:
        Means of the lower level before each input.
    """
    start = tuple(
        jnp.full_like(omega, value)
        for pair in zip(MU0, PI0, strict=True)
        for value in pair
    )

    def body(carry: Any, u: Any) -> Any:
        return filter_step(carry, u, omega, top)

    return jax.lax.scan(body, start, u)[1]


def cohort_model(cohort: Cohort) -> Callable[[], None]:
    """Write the model of the cohort in NumPyro, in the same coordinates.

    Args:
        cohort: inputs and responses.

    Returns:
        The model.
    """
    u = jnp.asarray(cohort.inputs.numpy().T)
    sign = jnp.asarray(2 * cohort.responses.numpy().T - 1)

    def model() -> None:
        group = {
            name: numpyro.sample(name, dist.Normal(mean, sd))
            for name, (mean, sd) in PRIOR.items()
        }
        scale = {
            name: numpyro.sample(name, dist.HalfNormal(1.0))
            for name in ("omega_sd", "log_zeta_sd")
        }
        with numpyro.plate("subject", u.shape[1]):
            free = numpyro.sample(
                "omega_free", dist.Normal(group["omega_mean"], scale["omega_sd"])
            )
            below = jax.nn.softplus(BEND * (FASTEST - free)) / BEND
            omega = numpyro.deterministic("omega", FASTEST - below)
            log_zeta = numpyro.sample(
                "log_zeta", dist.Normal(group["log_zeta_mean"], scale["log_zeta_sd"])
            )
            logits = predictions(u, omega, group["omega_top"])
            odds = sign * jnp.exp(log_zeta) * logits
            numpyro.factor("response", -jax.nn.softplus(-odds).sum(0))

    config = {
        name: reparam.LocScaleReparam(share, shape_params=())
        for name, share in cohort.centred.items()
    }
    return numpyro.handlers.reparam(model, config=config)


def run(
    cohort: Cohort,
    starts: dict[str, np.ndarray],
    samples: int,
    warmup: int,
    seed: int,
    *,
    dense: bool,
) -> Run:
    """Sample with vectorised chains, compiling included.

    Args:
        cohort: inputs and responses.
        starts: where chains begin, site to `(chains, *shape)`.
        samples: draws per chain.
        warmup: steps of adaptation.
        seed: of the run.
        dense: whether the metric is dense.

    Returns:
        The run.
    """
    one = {name: jnp.asarray(value[0]) for name, value in starts.items()}
    sampler = compile_sampler(
        cohort_model(cohort),
        len(next(iter(starts.values()))),
        samples,
        dense=dense,
        warmup=warmup,
        init_strategy=infer.init_to_value(values=one),
    )
    return sample(sampler, samples, seed, warmup, SITES)


def gradient(cohort: Cohort, starts: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Compile the gradient of all chains at once.

    Args:
        cohort: inputs and responses.
        starts: positions, site to `(chains, *shape)`.

    Returns:
        A function of no arguments that waits for the result.
    """
    model = cohort_model(cohort)
    potential = infer.util.initialize_model(jax.random.PRNGKey(0), model).potential_fn
    inverse = {"omega_sd": np.log, "log_zeta_sd": np.log}
    z = {k: jnp.asarray(inverse.get(k, np.asarray)(v)) for k, v in starts.items()}
    compiled = jax.jit(jax.vmap(jax.value_and_grad(potential))).lower(z).compile()
    return lambda: jax.block_until_ready(compiled(z))
