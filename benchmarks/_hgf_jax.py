"""The filter as a lean scan in JAX, for the benchmark of speed.

The same algebra as in the compiled filter: one logarithm and four exponentials for an
update, in place of the textbook's thirteen, and a derivative of the Wright omega
function in closed form. All lanes are one array.
"""

import importlib
from collections.abc import Callable
from typing import Any

from _hgf_peers import pyhgf_module

# Peers of the `bench` extra: not there where only `dev` is installed.
jax: Any = importlib.import_module("jax")
jnp: Any = importlib.import_module("jax.numpy")

__all__ = ["pyhgf_value_and_grad", "value_and_grad"]


def _omega_value(z: Any) -> Any:
    x = jnp.exp(jnp.minimum(z, 1.0))
    log = jnp.log(jnp.maximum(z, 1.0))
    low = x * (1 + x * (1.0922886431552905 + x * 0.04640037427048101))
    low /= 1 + x * (2.087878317189939 + x * 0.6826795668744559)
    high = 0.14872293709788986 + log * 0.11694508090687847
    high = log * (0.5031482145300024 + log * high)
    high /= 1 + log * (-0.04124388797821318 + log * 0.13680313277817596)
    w = jnp.where(z < 1, low, z - high)
    q = (z - w - jnp.log(w)) / (1 + w)
    a = 2 * (1 + w) * (1 + 2 * q / 3)
    return w * (1 + q * (a - q) / (a - 2 * q))


wright_omega = jax.custom_jvp(_omega_value)


@wright_omega.defjvp
def _omega_slope(primals: Any, tangents: Any) -> Any:
    w = wright_omega(*primals)
    return w, w / (1 + w) * tangents[0]


def _moved(w: Any, v: Any, distance: Any) -> Any:
    """Return log growth and its rest of alpha + e^y, and what beta over it falls by."""
    e = jnp.exp(-jnp.abs(distance))
    up = distance > 0
    part = jnp.where(up, v * e + w, v + w * e)
    return jnp.where(up, distance, 0.0), part, jnp.where(up, e, 1.0) / part


def _step(carry: Any, u: Any, p: Any) -> Any:
    mu1, pi1, mu2, pi2 = carry
    omega1, omega2, kappa, precision = p["omega"][0], p["omega"][1], p["kappa"], p["pi"]
    pihat2 = pi2 / (1 + pi2 * jnp.exp(omega2))
    gamma = omega1 + kappa * mu2
    walk = jnp.exp(gamma)
    pihat1 = pi1 / (1 + pi1 * walk)
    after = pihat1 + precision
    gain = precision / after
    error = u - mu1
    mean = mu1 + gain * error
    seen = pihat1 * gain
    surprise = 0.5 * (1.8378770664093453 - jnp.log(seen) + error * error * seen)
    beta = 1 / after + (mean - mu1) ** 2
    w, v, h = walk * pihat1, pihat1 / pi1, beta * pihat1
    half = 0.5 * kappa * kappa
    variance = 1 / pihat2
    inverse1 = 1 / (pihat2 + half * w * v)
    s = 0.5 * kappa * w * (h - 1) * inverse1
    first = _moved(w, v, kappa * s)
    width = half * variance
    omega = wright_omega(jnp.log(beta * width) + width - gamma)
    q = omega / width
    below = 1 / (beta * pi1 + q)
    w2, v2 = beta * pi1 * below, q * below
    full = pihat2 + half * w2 * (w2 + (w2 - v2) * (q * w2 - 1))
    inverse2 = 1 / jnp.where(full > 0, full, pihat2 + half * w2 * v2)
    n = 0.5 * kappa * v2 * (1 - q * (1 + w2)) * inverse2
    k = (omega - width) / kappa + n
    second = _moved(w2, v2, kappa * n)
    ratio = (h / q + v) * second[1] / first[1]
    rest = second[0] - first[0] + q * w2 * second[2] - h * first[2]
    rest = 0.5 * (rest + pihat2 * (k * k - s * s))
    odds = jnp.sqrt(ratio) * jnp.exp(jnp.clip(rest, -400.0, 400.0))
    b = 1 / (1 + odds)
    c = odds * b
    offset = jnp.where(b > 0.5, k - c * (k - s), s + b * (k - s))
    mixed = c * inverse1 + b * inverse2 + b * c * (k - s) ** 2
    return (mean, after, mu2 + offset, 1 / mixed), surprise


def total(parameters: Any, u: Any) -> Any:
    """Sum the surprise of all lanes.

    Args:
        parameters: `omega`, `mu0` and `pi0` `(2, lanes)`, `kappa` and `pi` `(lanes,)`.
        u: inputs, `(T, lanes)`.

    Returns:
        One number.
    """
    mu0, pi0 = parameters["mu0"], parameters["pi0"]
    start = mu0[0], pi0[0], mu0[1], pi0[1]

    def body(carry: Any, u: Any) -> Any:
        return _step(carry, u, parameters)

    return jax.lax.scan(body, start, u)[1].sum()


def value_and_grad(parameters: Any, u: Any) -> Callable[[], Any]:
    """Return a call of the compiled function that waits for the result."""
    fn = jax.jit(jax.value_and_grad(total))
    on_device = jax.tree.map(jnp.asarray, parameters), jnp.asarray(u)
    return lambda: jax.block_until_ready(fn(*on_device))


def pyhgf_value_and_grad(parameters: Any, u: Any) -> Callable[[], Any]:
    """Do the same with pyhgf's network of two continuous states.

    Args:
        parameters: as for :func:`total`; no derivative by `kappa` and `pi` is taken.
        u: inputs, `(T, lanes)`.

    Returns:
        A call.
    """
    network = pyhgf_module("pyhgf.model").Network(update_type="unbounded")
    network = (
        network.add_nodes(precision=1.0)
        .add_nodes(value_children=0)
        .add_nodes(volatility_children=1)
        .create_belief_propagation_fn()
    )
    steps, lanes = u.shape
    # one mapped call for all lanes, as its own log-probability does
    rest = (jnp.ones(steps, int),), jnp.ones(steps), None

    def one(p: Any, precision: Any, kappa: Any, u: Any) -> Any:
        at = {i: dict(node) for i, node in network.attributes.items() if i != -1}
        at[-1] = dict(network.attributes[-1])
        at[0]["precision"] = precision
        for i in (0, 1):
            at[i + 1]["mean"], at[i + 1]["precision"] = p["mu0"][i], p["pi0"][i]
            at[i + 1]["tonic_volatility"] = p["omega"][i]
        at[1]["volatility_coupling_parents"] = jnp.stack([kappa])
        at[2]["volatility_coupling_children"] = jnp.stack([kappa])
        inputs = ((u[:, None],), *rest)
        path = jax.lax.scan(network.scan_fn, at, inputs)[1][1]
        spread = 1 / path["expected_precision"] + 1 / precision
        error = u - path["expected_mean"]
        return 0.5 * (jnp.log(2 * jnp.pi * spread) + error**2 / spread).sum()

    def all_lanes(p: Any, precision: Any, kappa: Any, u: Any) -> Any:
        return jax.vmap(one, in_axes=(1, 0, 0, 1))(p, precision, kappa, u).sum()

    fn = jax.jit(jax.value_and_grad(all_lanes))
    free = {name: jnp.asarray(parameters[name]) for name in ("omega", "mu0", "pi0")}
    fixed = [jnp.asarray(x) for x in (parameters["pi"], parameters["kappa"], u)]
    return lambda: jax.block_until_ready(fn(free, *fixed))
