"""A mixture of three normals whose memberships are summed out by enumeration.

Each point belongs to one component. The sum over the components is computed in
parallel, so that only the continuous latents are sampled. Locations are in increasing
order; otherwise the posterior would have six equal modes. The data are simulated, and
the middle component overlaps with its neighbours.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor

WEIGHTS = [0.3, 0.2, 0.5]
LOCATIONS = [-3.0, 0.0, 2.5]
SCALES = [1.0, 0.6, 0.8]
NUM_POINTS = 1000


def model(points: Tensor, y: Tensor | None = None) -> Tensor:
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((3,), 2.0)))
    gaps = dist.Normal(torch.tensor([-3.0, 1.0, 1.0]), torch.tensor([3.0, 1.0, 1.0]))
    ordered = dist.TransformedDistribution(gaps.to_event(1), [OrderedTransform()])
    locations = pyro.sample("locations", ordered)
    scales = pyro.sample("scales", dist.LogNormal(torch.zeros(3), 0.5).to_event(1))
    with pyro.plate("points", len(points)):
        kind = dist.Categorical(weights)
        k = pyro.sample("component", kind, infer={"enumerate": "parallel"})
        return pyro.sample("y", dist.Normal(locations[k], scales[k]), obs=y)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w, m, s = torch.tensor([WEIGHTS, LOCATIONS, SCALES], dtype=torch.float64)
    k = torch.multinomial(w, NUM_POINTS, replacement=True, generator=generator)
    noise = torch.randn(NUM_POINTS, generator=generator, dtype=torch.float64)
    y = m[k] + s[k] * noise
    return torch.arange(NUM_POINTS), y.to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    """What the data were simulated with."""
    names = "weights", "locations", "scales"
    values = map(torch.tensor, (WEIGHTS, LOCATIONS, SCALES))
    return dict(zip(names, values, strict=True))


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    _, y = data()
    counts = torch.histc(y, 16, -6.0, 6.0)
    print(f"{len(y)} points")
    for left, count in zip(torch.linspace(-6.0, 5.25, 16), counts, strict=True):
        print(f"  {left:5.2f}   {'#' * int(count / 4)}")
