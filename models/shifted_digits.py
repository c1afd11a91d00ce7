"""Handwritten digits 0 to 4, and later a few of them lying on their side.

A tanh network 64-12-5 (845 weights) under a normal prior learns 200 upright images.
Then 50 images come that were turned by a right angle: how much of what was learned
survives a fit to them? The images are scikit-learn's bundled 8 x 8 digits.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from torch import Tensor

HIDDEN, NUM_CLASSES = 12, 5
NUM_TRAIN, NUM_SHIFTED = 200, 50


def weights(name: str, *shape: int) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), 1.0)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    w1, b1 = weights("w1", x.shape[-1], HIDDEN), weights("b1", HIDDEN)
    w2, b2 = weights("w2", HIDDEN, NUM_CLASSES), weights("b2", NUM_CLASSES)
    logits = torch.tanh(x @ w1 + b1) @ w2 + b2
    with pyro.plate("data", x.shape[0]):
        return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """Digits 0 to 4 in the order of the seed."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels / 16.0 - 0.5, dtype=torch.get_default_dtype())
    y = torch.as_tensor(labels, dtype=torch.long)
    known = torch.nonzero(y < NUM_CLASSES).squeeze(-1)
    generator = torch.Generator().manual_seed(seed)
    order = known[torch.randperm(len(known), generator=generator)]
    return x[order], y[order]


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[:NUM_TRAIN], y[:NUM_TRAIN]


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[NUM_TRAIN + NUM_SHIFTED :], y[NUM_TRAIN + NUM_SHIFTED :]


def turned(x: Tensor) -> Tensor:
    """The images on their side."""
    return x.view(-1, 8, 8).rot90(1, (1, 2)).reshape(x.shape)


def shifted(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Few images on their side, none of them in `data`."""
    x, y = split(seed)
    rows = slice(NUM_TRAIN, NUM_TRAIN + NUM_SHIFTED)
    return turned(x[rows]), y[rows]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 5.0}


if __name__ == "__main__":
    print(f"{len(data()[1])} upright images, {len(shifted()[1])} on their side")
    print(f"{len(held_out()[1])} held out")
    print("digits on their side:", torch.bincount(shifted()[1]).tolist())
