"""A Gaussian process of 30 inputs of which two matter: the SAAS prior.

Sparse axis-aligned subspaces (Eriksson and Jankowiak 2021, arXiv 2103.00349), with the
priors and site names of BoTorch and a Matern-5/2 kernel. Half-Cauchy priors of the
inverse squared lengthscales and of a common factor remove the effect of most inputs
and leave that of a few. The data are 30 noisy values of Branin's function.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

ACTIVE = (7, 19)
MIN_NOISE = 1e-4


def matern52(x: Tensor, inverse_length_sq: Tensor) -> Tensor:
    """Correlations of the rows of `x`; each pair of rows is looked at once."""
    n = x.shape[0]
    i, j = torch.triu_indices(n, n, 1)
    # differences before products: no digits cancel, and all chains share one product
    square = (x[i] - x[j]).square() @ inverse_length_sq
    d = (5.0 * square).clamp(min=1e-12).sqrt()  # a root is infinitely steep at zero
    pairs = (1.0 + d + d.square() / 3.0) * torch.exp(-d)
    place = torch.zeros(n, n, dtype=torch.long)
    place[i, j] = place[j, i] = torch.arange(1, len(i) + 1)
    return torch.cat([pairs.new_ones(1), pairs])[place]


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    n, num_dims = x.shape
    zero = torch.zeros(())  # carries the default dtype into the priors
    outputscale = pyro.sample("outputscale", dist.Gamma(zero + 2.0, zero + 0.15))
    mean = pyro.sample("mean", dist.Normal(zero, 1.0))
    noise = MIN_NOISE + pyro.sample("noise", dist.Gamma(zero + 0.9, zero + 10.0))
    tausq = pyro.sample("kernel_tausq", dist.HalfCauchy(zero + 0.1))
    local = dist.HalfCauchy(torch.ones(num_dims)).to_event(1)
    inverse = tausq * pyro.sample("_kernel_inv_length_sq", local)
    pyro.deterministic("lengthscale", inverse.rsqrt())
    covariance = outputscale * matern52(x, inverse) + noise * torch.eye(n)
    return pyro.sample("y", dist.MultivariateNormal(mean.expand(n), covariance), obs=y)


def branin(x: Tensor) -> Tensor:
    u, v = 15.0 * x[:, ACTIVE[0]] - 5.0, 15.0 * x[:, ACTIVE[1]]
    bowl = (v - 5.1 * (u / math.pi).square() / 4.0 + 5.0 / math.pi * u - 6.0).square()
    return bowl + 10.0 * (1.0 - 0.125 / math.pi) * torch.cos(u) + 10.0


def data(count: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = SobolEngine(30, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, generator=random, dtype=torch.float64)
    y = (branin(x) + 5.0 * noise - 68.463) / 51.111  # mean and deviation of the 30
    return x.to(torch.get_default_dtype()), y.to(torch.get_default_dtype())


def new_points(seed: int = 1) -> tuple[Tensor, Tensor]:
    return data(512, seed)


def truth() -> dict[str, Tensor]:
    return {"active": torch.tensor(ACTIVE)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    table = torch.corrcoef(torch.cat([x, y.unsqueeze(-1)], 1).mT)[-1, :-1]
    print("largest correlations of an input and y; the active ones are", ACTIVE)
    for k in table.abs().argsort(descending=True)[:3]:
        print(f"  input {int(k):2}   {table[k]:5.2f}")
