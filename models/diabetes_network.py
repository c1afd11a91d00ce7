"""Progression of diabetes after a year, from ten measurements, with a small network.

Scikit-learn's bundled data; one half is for training. A tanh network 10-50-1 (601
weights) has almost three weights a patient, and the data show little more than a
linear trend. One trained network fits the noise; an average over equally good networks
does so less.
Outer weights have variance 1/50, so that the prior of the function does not depend on
the width (Neal 1996). Inputs and target are standardised by the training half; the
noise is known, about what a linear fit leaves.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

NOISE = 0.7
HIDDEN = 50
NUM_TRAIN = 221


def weights(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), scale)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    w1, b1 = weights("w1", x.shape[-1], HIDDEN), weights("b1", HIDDEN)
    w2, b2 = weights("w2", HIDDEN, 1, scale=HIDDEN**-0.5), weights("b2", 1)
    mean = (torch.tanh(x @ w1 + b1) @ w2 + b2).squeeze(-1)
    with pyro.plate("patients", x.shape[0]):
        return pyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """All patients in the order of the seed, standardised by those trained on."""
    inputs, target = load_diabetes(return_X_y=True, scaled=False)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    table = torch.as_tensor(inputs)[order], torch.as_tensor(target)[order]
    x, y = ((t - t[:NUM_TRAIN].mean(0)) / t[:NUM_TRAIN].std(0) for t in table)
    dtype = torch.get_default_dtype()
    return x.to(dtype), y.to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[:NUM_TRAIN], y[:NUM_TRAIN]


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = split(seed)
    return x[NUM_TRAIN:], y[NUM_TRAIN:]


def options() -> dict[str, object]:
    # weights that only the prior holds come to rest slowly
    slow = {"settle_time": 40.0, "settle_friction": 0.5, "polish_max_steps": 100}
    return {"loss": "joint", "alpha": 0.0, "velocity_scale": 0.5, **slow}


if __name__ == "__main__":
    (x, y), (x_test, y_test) = data(), held_out()
    fit = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
    print(f"{len(y)} patients to learn from, {len(y_test)} held out")
    print("held-out negative log-likelihood per patient, nats")
    for name, mean in (("constant", 0.0 * y_test), ("linear fit", x_test @ fit)):
        nll = -dist.Normal(mean, NOISE).log_prob(y_test).mean()
        print(f"  {name:10}   {nll:.3f}")
