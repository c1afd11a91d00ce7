"""Handwritten digits in eight views: turned, moved, zoomed, sheared, faint or noisy.

A tanh network 64-24-24-10 (2,410 weights) learns scikit-learn's 8 x 8 digits, and a
copy of it goes on in each view. One network is to take the place of all eight.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

SIZES = (64, 24, 24, 10)
PURPOSES = {"fitting": (0, 500), "merging": (500, 700), "validation": (700, 1000)}
PURPOSES["test"] = (1000, 1797)
UPRIGHT = {"angle": 0.0, "right": 0.0, "down": 0.0, "zoom": 1.0, "shear": 0.0}
UPRIGHT |= {"contrast": 1.0, "noise": 0.0}  # lengths are in image heights
VIEWS = {"turned left": {"angle": 25.0}, "turned right": {"angle": -25.0}}
VIEWS |= {"moved right": {"right": 0.1}, "moved down": {"down": 0.1}}
VIEWS |= {"zoomed": {"zoom": 1.4}, "sheared": {"shear": 0.5}}
VIEWS |= {"faint": {"contrast": 0.25}, "noisy": {"noise": 0.25}}


def weights(name: str, *shape: int) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), 1.0)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    params = {f"w{i}": weights(f"w{i}", SIZES[i], SIZES[i + 1]) for i in range(3)}
    params |= {f"b{i}": weights(f"b{i}", SIZES[i + 1]) for i in range(3)}
    scores = logits(params, x)
    with pyro.plate("data", x.shape[0]):
        return pyro.sample("y", dist.Categorical(logits=scores), obs=y)


def logits(params: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in range(2):
        x = torch.tanh(x @ params[f"w{i}"] + params[f"b{i}"])
    return x @ params["w2"] + params["b2"]


def part(purpose: str, seed: int, **view: float) -> tuple[Tensor, Tensor]:
    """Images for one purpose, in a view."""
    pixels, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(labels), generator=generator)[slice(*PURPOSES[purpose])]
    x = torch.as_tensor(pixels / 16.0, dtype=torch.get_default_dtype())[rows]
    settings = list({**UPRIGHT, **view}.values())
    a, right, down, zoom, shear, contrast, noise = x.new_tensor(settings)
    cos, sin = a.deg2rad().cos() / zoom, a.deg2rad().sin() / zoom
    square = torch.stack([cos, shear * cos - sin, sin, cos + shear * sin]).view(2, 2)
    shift = square @ torch.stack([-2 * right, -2 * down])[:, None]
    affine = torch.cat([square, shift], 1).expand(len(x), 2, 3)
    grid = affine_grid(affine, [len(x), 1, 8, 8], align_corners=False)
    x = grid_sample(x.view(-1, 1, 8, 8), grid, align_corners=False).flatten(1)
    grain = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
    return contrast * (x - 0.5) + noise * grain, torch.as_tensor(labels)[rows]


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return part("fitting", seed)


def tasks(purpose: str, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Images for one purpose in each view, and their digits."""
    found = {name: part(purpose, seed, **view) for name, view in VIEWS.items()}
    return {k: x for k, (x, _) in found.items()}, {k: y for k, (_, y) in found.items()}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 5.0}


if __name__ == "__main__":
    print(f"{len(data()[1])} upright images to learn from, as many in each view")
    print("held out in each view:", len(tasks("test")[1]["faint"]))
    print("digits:", torch.bincount(data()[1]).tolist())
