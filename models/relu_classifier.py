"""Benign or malignant, from 30 measurements of a biopsy: a small ReLU network.

Scikit-learn's bundled data. The first 40 biopsies only set the scale of the inputs.
The prior therefore does not depend on the 360 training biopsies, and a certificate of
the Gibbs posterior may use all of these. `loss` is the loss of the posterior; `risk`,
how often the prediction is wrong, is what is certified.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.nn.functional import softplus

HIDDEN = 8
PRIOR_SCALE = 3.0
NUM_SCALING, NUM_TRAIN = 40, 360


def weights(name: str, *shape: int) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), PRIOR_SCALE)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    w1, b1 = weights("w1", x.shape[-1], HIDDEN), weights("b1", HIDDEN)
    w2, b2 = weights("w2", HIDDEN), weights("b2")
    logits = torch.relu(x @ w1 + b1) @ w2 + b2
    with pyro.plate("biopsies", x.shape[0]):
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)
    return logits


def loss(logits: Tensor, y: Tensor) -> Tensor:
    return softplus(torch.where(y > 0.5, -logits, logits))


def risk(logits: Tensor, y: Tensor) -> Tensor:
    return ((logits > 0) != (y > 0.5)).to(logits)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """All biopsies but the first 40 in the order of the seed, standardised by those."""
    inputs, benign = load_breast_cancer(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(benign), generator=generator)
    x, malignant = torch.as_tensor(inputs)[order], torch.as_tensor(1 - benign)[order]
    x = (x - x[:NUM_SCALING].mean(0)) / x[:NUM_SCALING].std(0)
    dtype = torch.get_default_dtype()
    return x[NUM_SCALING:].to(dtype), malignant[NUM_SCALING:].to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[:NUM_TRAIN], y[:NUM_TRAIN]


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[NUM_TRAIN:], y[NUM_TRAIN:]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 2.0}


if __name__ == "__main__":
    pyro.set_rng_seed(0)
    x, y = data()
    print(f"{len(y)} biopsies to learn from, {len(held_out()[1])} held out")
    print(f"malignant: {y.mean():.0%}")
    wrong = torch.stack([risk(model(x, y), y).mean() for _ in range(200)])
    print(f"wrong under the prior: {wrong.mean():.2f}, at best {wrong.min():.2f}")
