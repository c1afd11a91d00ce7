"""Whether a NumPyro model has the density of the Pyro model it stands beside."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _hmc_numpyro import as_arrays, jnp
from _hmc_numpyro_models import MODELS, read
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.testing import posteriordb

util: Any = importlib.import_module("numpyro.infer.util")
handlers: Any = importlib.import_module("numpyro.handlers")
transforms: Any = importlib.import_module("numpyro.distributions.transforms")

AGREE = 1e-8  # nats, of differences between points
POINTS = 7


def disagreement(target: Target, model: Callable[[], None], q: Tensor) -> float:
    """Compare two log-densities up to a constant.

    Both are taken with respect to the sites' own space, each library's log-Jacobian
    removed, so that it doesn't matter how each maps sites to the reals.

    Args:
        target: of the Pyro model.
        model: the NumPyro model, same latent sites.
        q: positions, `(n, dim)`.

    Returns:
        Largest deviation of the differences between points, in nats.
    """
    sites = target.constrain(q)
    ours = target.log_prob(q) - log_jacobian(target, q)
    theirs = [
        log_density(model, {name: value[i].numpy() for name, value in sites.items()})
        for i in range(len(q))
    ]
    gap = ours.numpy() - np.array(theirs)
    return float(np.ptp(gap))


def log_jacobian(target: Target, q: Tensor) -> Tensor:
    """Sum the log-Jacobians of all sites' maps from the reals, `(n,)`."""
    total = torch.zeros(len(q), dtype=q.dtype)
    for name, value in target.layout.unflatten(q).items():
        transform = target.layout.sites[name].transform
        terms = transform.log_abs_det_jacobian(value, transform(value))
        total = total + terms.reshape(len(q), -1).sum(-1)
    return total


def log_density(model: Callable[[], None], sites: Mapping[str, np.ndarray]) -> float:
    """Log-density of the NumPyro model at values in its own space."""
    values = {name: jnp.asarray(value) for name, value in sites.items()}
    free = util.unconstrain_fn(model, (), {}, values)
    total = -util.potential_energy(model, (), {}, free)
    trace = handlers.trace(handlers.substitute(model, data=values)).get_trace()
    for name, value in free.items():
        transform = transforms.biject_to(trace[name]["fn"].support)
        total -= jnp.sum(transform.log_abs_det_jacobian(value, values[name]))
    return float(total)


def check_agreement(
    name: str, target: Target, model: Callable[[], None], q: Tensor
) -> None:
    """Refuse to compare samplers on densities that differ.

    Args:
        name: of the case.
        target: of the Pyro model.
        model: the NumPyro model.
        q: positions to compare at.

    Raises:
        RuntimeError: they differ.
    """
    if not (gap := disagreement(target, model, q)) < AGREE:
        raise RuntimeError(f"{name}: the two densities differ by {gap:.2g} nats")


def checked(name: str, folder: Path) -> Callable[[], None]:
    """Bind a posterior's data to its NumPyro model and check it at reference draws.

    Args:
        name: of the posterior.
        folder: of posteriordb.

    Returns:
        The model, of no arguments.
    """
    posterior = posteriordb.load(name, path=folder)
    target = Target.from_model(
        posterior.model, *posterior.args, dtype=torch.float64, compile=False
    )
    draws = posteriordb.latent_sites(posterior)
    each = {site: value.flatten(0, 1) for site, value in draws.items()}
    few = {site: value[:: len(value) // POINTS] for site, value in each.items()}
    model = partial(MODELS[name], as_arrays(read(name, folder)))
    check_agreement(name, target, model, target.unconstrain(few))
    return model
