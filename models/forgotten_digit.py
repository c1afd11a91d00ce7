"""A network of digits that must forget one of them: 64-12-10 on 500 images.

`network` is the same network as a module, to be trained by an optimiser. `withdrawn`
gives the rows of the digit, and `unseen` images to read the accuracy from.
"""

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from torch import Tensor

HIDDEN = 12
FORGOTTEN = 8
NUM_TRAIN = 500


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    shapes = {"w1": (64, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, 10), "b2": (10,)}
    w1, b1, w2, b2 = (
        pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
        for name, shape in shapes.items()
    )
    logits = torch.tanh(x @ w1 + b1) @ w2 + b2
    with pyro.plate("data", x.shape[0]):
        return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def split() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(pixels / 16.0 - 0.5, dtype=torch.get_default_dtype())
    return x[order], torch.as_tensor(labels, dtype=torch.long)[order]


def data() -> tuple[Tensor, Tensor]:
    x, y = split()
    return x[:NUM_TRAIN], y[:NUM_TRAIN]


def unseen() -> tuple[Tensor, Tensor]:
    """Images that no training reads."""
    x, y = split()
    return x[NUM_TRAIN:], y[NUM_TRAIN:]


def withdrawn() -> Tensor:
    return torch.nonzero(data()[1] == FORGOTTEN).flatten()


def network() -> torch.nn.Module:
    first, last = torch.nn.Linear(64, HIDDEN), torch.nn.Linear(HIDDEN, 10)
    return torch.nn.Sequential(first, torch.nn.Tanh(), last)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 2.0}


if __name__ == "__main__":
    print(f"{len(data()[1])} images, {len(withdrawn())} of them of {FORGOTTEN}")
