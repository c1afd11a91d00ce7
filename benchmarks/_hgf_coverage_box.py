"""Values and gradients of one update over a wide box, ours and pyhgf's."""

import importlib
from functools import cache
from typing import Any

import numpy as np
import torch
from _bench import Row
from _hgf_peers import pyhgf_module
from _hmc_common import installed
from torch import Tensor

from pyro_geo.filtering import volatility_update

NAMES = ("alpha", "beta", "kappa", "omega", "t", "mu_hat", "pi_hat")
FAR = dict(zip(NAMES, (1e-8, 0.5, 1.0, 0.0, 1.0, -720.0, 0.5), strict=True))


def box(count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw arguments: predictions that are far off, precise or vague, either sign."""
    generator = torch.Generator().manual_seed(21)

    def between(low: float, high: float) -> Tensor:
        draw = torch.rand(count, generator=generator, dtype=torch.float64)
        return low + (high - low) * draw

    alpha = 10 ** between(-6, 3)
    drawn = {
        "alpha": alpha,
        "beta": alpha * 10 ** between(0, 6),
        "kappa": between(-3, 3),
        "omega": between(-10, 10),
        "t": 10 ** between(-1, 1),
        "mu_hat": between(-30, 30),
        "pi_hat": 10 ** between(-2, 3),
    }
    return {name: x.to(dtype) for name, x in drawn.items()}


def ours(arguments: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return which points have a bad value, and which a bad gradient."""
    leaves = {name: x.clone().requires_grad_() for name, x in arguments.items()}
    mean, precision = volatility_update("unbounded", **leaves)
    bad = ~(mean.isfinite() & precision.isfinite() & (precision > 0))
    bad_slope = torch.zeros_like(bad)
    for result in (mean, precision):
        found = torch.autograd.grad(
            result.sum(), list(leaves.values()), retain_graph=True
        )
        for gradient in found:
            bad_slope |= ~gradient.isfinite()
    return bad, bad_slope


@cache
def pyhgf_update() -> Any:
    """Make pyhgf's unbounded update a function of our arguments; None if missing."""
    if not all(map(installed, ("jax", "pyhgf"))):
        return None
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")
    jax.config.update("jax_enable_x64", True)
    typing = pyhgf_module("pyhgf.typing")
    name = "continuous_node_posterior_update_unbounded"
    module = pyhgf_module(f"pyhgf.updates.posterior.continuous.{name}")
    update = module.posterior_update_unbounded
    lists = [None] * len(typing.AdjacencyLists._fields)
    child = typing.AdjacencyLists(*lists)._replace(volatility_parents=(1,))
    parent = typing.AdjacencyLists(*lists)._replace(volatility_children=(0,))

    def both(values: Any) -> Any:
        alpha, beta, kappa, omega, t, mu_hat, pi_hat = values
        change = t * jnp.exp(kappa * mu_hat + omega)
        attributes = {
            -1: {"time_step": t},
            0: {
                "tonic_volatility": omega,
                "precision": 1.0 / beta,
                "mean": jnp.zeros_like(beta),
                "expected_mean": jnp.zeros_like(beta),
                "expected_precision": 1.0 / (alpha + change),
                "temp": {"current_variance": alpha},
            },
            1: {
                "volatility_coupling_children": jnp.stack([kappa]),
                "expected_mean": mu_hat,
                "expected_precision": pi_hat,
            },
        }
        precision, mean = update(
            attributes=attributes, node_idx=1, edges=(child, parent)
        )
        return mean, precision

    slopes = jax.jacrev(both)
    return jax.jit(jax.vmap(lambda values: (both(values), slopes(values))))


def theirs(arguments: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the same of pyhgf's update."""
    update = pyhgf_update()
    if update is None:
        return None
    jnp: Any = importlib.import_module("jax.numpy")
    values = jnp.stack([jnp.asarray(x.numpy()) for x in arguments.values()], -1)
    found, slopes = update(values)
    mean, precision = (torch.from_numpy(np.array(x)) for x in found)
    bad = ~(mean.isfinite() & precision.isfinite() & (precision > 0))
    bad_slope = torch.zeros_like(bad)
    for slope in slopes:
        bad_slope |= ~torch.from_numpy(np.array(slope)).isfinite().all(-1)
    return bad, bad_slope


def box_rows(count: int, dtype: torch.dtype) -> list[Row]:
    """Count the bad points of both updates."""
    arguments = box(count, dtype)
    methods = {"volatility_update": ours(arguments), "pyhgf": theirs(arguments)}
    names = (
        "points with a value that is not finite",
        "points with a gradient that is not finite",
    )
    return [
        {
            "case": f"wide box, {str(dtype).removeprefix('torch.')}",
            "method": method,
            "metric": name,
            "value": None if found is None else int(found[i].sum()),
            "unit": f"of {count:,}",
        }
        for method, found in methods.items()
        for i, name in enumerate(names)
    ]


def exact() -> float:
    """Compute the mean of the far prediction with fifty digits."""
    import mpmath as mp

    with mp.workdps(50):
        alpha, beta, kappa, omega, t, mu_hat, pi_hat = map(mp.mpf, FAR.values())

        def energy(x: Any) -> Any:
            total = alpha + t * mp.exp(kappa * x + omega)
            return -(mp.log(total) + beta / total + pi_hat * (x - mu_hat) ** 2) / 2

        def weight(x: Any) -> Any:
            change = t * mp.exp(kappa * x + omega)
            return change / (alpha + change)

        gamma, ratio = kappa * mu_hat + omega + mp.log(t), kappa**2 / pi_hat / 2
        z = mp.log(beta) + mp.log(ratio) + ratio - gamma
        root = mp.findroot(lambda w: w + mp.log(w) - z, z - mp.log(z))
        mode = mu_hat + (root - ratio) / kappa
        w = weight(mode)
        error = beta / (alpha + t * mp.exp(kappa * mode + omega)) - 1
        bend = pi_hat + kappa**2 / 2 * w * (w + (2 * w - 1) * error)
        second = mode + (kappa / 2 * w * error - pi_hat * (mode - mu_hat)) / bend
        w = weight(mu_hat)
        error = beta / (alpha + t * mp.exp(gamma)) - 1
        first_bend = pi_hat + kappa**2 / 2 * w * (1 - w)
        first = mu_hat + kappa / 2 * w * error / first_bend
        b = 1 / (1 + mp.exp(energy(first) - energy(second)))
        return float((1 - b) * first + b * second)


def far_rows() -> list[Row]:
    """Look at a prediction of -720 where the change was of the order of 1."""
    reference = exact()
    arguments = {k: torch.tensor(v, dtype=torch.float64) for k, v in FAR.items()}
    found: dict[str, float | None] = {
        "ours": volatility_update("unbounded", **arguments)[0].item(),
        "pyhgf": None,
    }
    update = pyhgf_update()
    if update is not None:
        jnp: Any = importlib.import_module("jax.numpy")
        found["pyhgf"] = float(update(jnp.asarray([list(FAR.values())]))[0][0][0])
    rows = [{"method": "fifty digits", "metric": "mean of level 2", "value": reference}]
    for method, mean in found.items():
        error = None if mean is None else abs(mean / reference - 1)
        rows += [
            {"method": method, "metric": "mean of level 2", "value": mean},
            {"method": method, "metric": "relative error of the mean", "value": error},
        ]
    return [{"case": "prediction of -720", "unit": "", **row} for row in rows]
