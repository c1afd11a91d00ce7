"""Linear regression with more weights than rows.

Every row can be fitted exactly, and the exact fits form a plane: the minimum-norm
solution plus any vector in the null space of the inputs. Draws of a sampler of minima
should lie on this plane to rounding and spread along the null space.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

NOISE = 0.1


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    num_rows, num_weights = x.shape
    prior = dist.Normal(torch.zeros(num_weights), 1.0).to_event(1)
    w = pyro.sample("w", prior)
    with pyro.plate("rows", num_rows):
        return pyro.sample("y", dist.Normal(w @ x.mT, NOISE), obs=y)


def draw(num_rows: int, num_weights: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (num_rows, num_weights), (num_weights,), (num_rows,)
    x, w, noise = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes
    )
    y = x @ w + NOISE * noise
    dtype = torch.get_default_dtype()
    return x.to(dtype), y.to(dtype), w.to(dtype)


def data(
    num_rows: int = 6, num_weights: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    x, y, _ = draw(num_rows, num_weights, seed)
    return x, y


def truth(num_rows: int = 6, num_weights: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """Where the minima lie.

    `minimum_norm` is `(num_weights,)`, `null_space` an orthonormal basis in columns,
    `(num_weights, num_weights - num_rows)`, and `w` the weights behind the data.
    """
    x, y, w = draw(num_rows, num_weights, seed)
    basis = torch.linalg.svd(x).Vh[num_rows:].mT
    return {"minimum_norm": torch.linalg.pinv(x) @ y, "null_space": basis, "w": w}


def options() -> dict[str, object]:
    return {"loss": "nll", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    known = truth()
    shifted = known["minimum_norm"] + known["null_space"] @ torch.ones(4)
    print(f"{x.shape[0]} rows, {x.shape[1]} weights")
    for name, w in (("minimum norm", known["minimum_norm"]), ("shifted", shifted)):
        residual = (x @ w - y).abs().max()
        print(f"  {name:12}   |w| {w.norm():.3f}   largest residual {residual:.1e}")
