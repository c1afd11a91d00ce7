"""What the parts of the benchmark on Gibbs posteriors share: data and networks."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import sklearn.datasets
import torch
from torch import Tensor
from torch.nn.functional import softplus

DELTA = 0.05
SEEDS = (0, 1, 2)
OURS = "ours"


class Split(NamedTuple):
    """Data of one seed, inputs scaled by points that no certificate uses.

    Attributes:
        x: inputs learned from and certified on, `(n, inputs)`.
        y: classes 0 and 1, `(n,)`.
        x_test: inputs of the test set.
        y_test: its classes.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


class Problem(NamedTuple):
    """A data set for a network of one hidden layer.

    Attributes:
        name: of the data set.
        hidden: units of the hidden layer.
        load: inputs and classes, all of them.
        num_train: points for learning, a tenth of which only set the scale.
    """

    name: str
    hidden: int
    load: Callable[[], tuple[Any, Any]]
    num_train: int

    def split(self, seed: int, quick: bool = False) -> Split:
        """Shuffle by the seed, and scale by the first tenth."""
        inputs, classes = self.load()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(classes), generator=generator)
        x = torch.as_tensor(inputs, dtype=torch.float64)[order]
        y = torch.as_tensor(classes, dtype=torch.float64)[order]
        scaling = self.num_train // 10
        # a pixel that never changes has no scale
        x = (x - x[:scaling].mean(0)) / x[:scaling].std(0).clamp(min=1.0 / 16)
        last = scaling + 60 if quick else self.num_train
        train, test = slice(scaling, last), slice(self.num_train, None)
        return Split(x[train], y[train], x[test], y[test])


def breast_cancer() -> tuple[Any, Any]:
    """Measurements of biopsies; class 1 is malignant."""
    inputs, benign = sklearn.datasets.load_breast_cancer(return_X_y=True)
    return inputs, 1 - benign


def digits() -> tuple[Any, Any]:
    """Images of digits; class 1 are those from five on."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    return pixels / 16, labels >= 5


PROBLEMS = (
    Problem("breast_cancer", 8, breast_cancer, 400),
    Problem("digits", 5, digits, 1347),
)


class Network:
    """A ReLU network of one hidden layer on flat weights, any number at once.

    Args:
        inputs: number of them.
        hidden: units.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        self.shapes = ((inputs, hidden), (hidden,), (hidden,), ())
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.dim = sum(self.sizes)

    def layers(self, w: Tensor) -> list[Tensor]:
        """Cut flat weights `(*batch, dim)` into layers."""
        parts = w.split(self.sizes, -1)
        return [
            part.reshape((*w.shape[:-1], *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """Logits `(*batch, n)` of weights `(*batch, dim)`."""
        w1, b1, w2, b2 = self.layers(w)
        hidden = torch.relu(x @ w1 + b1.unsqueeze(-2))
        return (hidden @ w2.unsqueeze(-1)).squeeze(-1) + b2.unsqueeze(-1)


def logistic(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats."""
    return softplus(torch.where(y > 0.5, -logits, logits))


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """One where the class is wrong."""
    return ((logits > 0) != (y > 0.5)).to(logits)


def network_model(hidden: int, scale: float, centre: Tensor | None = None) -> Any:
    """The same network as a Pyro model, all weights normal with one scale."""

    def model(x: Tensor) -> Tensor:
        network = Network(x.shape[-1], hidden)
        loc = torch.zeros(network.dim, dtype=x.dtype) if centre is None else centre
        w = pyro.sample("w", dist.Normal(loc, scale).to_event(1))
        return network(w, x)

    return model


class Clock:
    """Processor and wall seconds of a block."""

    def __enter__(self) -> "Clock":
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *reason: object) -> None:
        cpu, wall = self._start
        self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - wall


def seed_rows(
    case: str, method: str, values: dict[str, list[float]], clock: list[float]
) -> list[dict[str, Any]]:
    """Rows of the means over seeds: certificates, test risks and what else there is."""
    rows = []
    for metric, found in {**values, "processor seconds": clock}.items():
        tensor = torch.tensor(found, dtype=torch.float64)
        sd = float(tensor.std()) if len(found) > 1 else 0.0
        rows.append(
            {
                "case": case,
                "method": method,
                "metric": metric,
                "value": float(f"{tensor.mean():.5g}"),
                "sd": float(f"{sd:.3g}"),
                "seeds": len(found),
                "unit": "s" if metric == "processor seconds" else "",
            }
        )
    return rows
