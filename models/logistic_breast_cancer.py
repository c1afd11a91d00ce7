"""Benign or malignant, from 30 measurements of a biopsy: logistic regression.

Scikit-learn's bundled data; one half is for training and sets the scale. Many of the
measurements are strongly correlated (radius, perimeter and area of the same cells), so
that the posterior is wide in some directions and narrow in others.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

NUM_TRAIN = 285


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    intercept = pyro.sample("intercept", dist.Normal(zero, 2.0))
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1)
    weights = pyro.sample("weights", prior)
    with pyro.plate("biopsies", x.shape[0]):
        logits = intercept + x @ weights
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """All biopsies in the order of the seed, standardised by those learned from."""
    inputs, benign = load_breast_cancer(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(benign), generator=generator)
    x, malignant = torch.as_tensor(inputs)[order], torch.as_tensor(1 - benign)[order]
    x = (x - x[:NUM_TRAIN].mean(0)) / x[:NUM_TRAIN].std(0)
    dtype = torch.get_default_dtype()
    return x.to(dtype), malignant.to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[:NUM_TRAIN], y[:NUM_TRAIN]


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[NUM_TRAIN:], y[NUM_TRAIN:]


def shards(num_hospitals: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The biopsies to learn from, dealt to hospitals of one size."""
    parts = zip(*(part.tensor_split(num_hospitals) for part in data(seed)), strict=True)
    return [(x, y) for x, y in parts]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    print(f"{len(y)} biopsies to learn from, {len(held_out()[1])} held out")
    print(f"malignant: {y.mean():.0%}")
    spread = torch.linalg.svdvals(x).square().div(len(y))
    print(f"variance of the measurements along their axes: {spread[0]:.1f}", end="")
    print(f" to {spread[-1]:.5f}")
