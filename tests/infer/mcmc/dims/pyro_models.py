"""A model that other processes can import."""

import pyro
import pyro.distributions as dist


def plane(x, y):
    """Two weights that only their sum is told about."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w.sum() * x, 0.5), obs=y)
    return scale
