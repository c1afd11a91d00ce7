"""Part `mnist`: a ReLU network on 10,000 images, its prior learnt from half of them.

The prior is centred at a network trained on one half and is narrow; the Gibbs posterior
learns from the other half, on which the certificate rests. The trained network's own
held-out bound stands beside. The images lie in `../shared/data/mnist_10k`, or where
`MNIST_PATH` says, as two zipped files of the original format.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _bench import ROOT, Row
from _gibbs_common import OURS, Clock, seed_rows
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify, certify_holdout, split_prior

CASE = "mnist, 10,000 images"
HIDDEN, CLASSES, PIXELS = 100, 10, 784
SCALE = 0.02  # of the prior around the trained network
BETAS = (0.01, 0.1)
PARTICLES = 16
SEEDS = (0, 1, 2)


def folder() -> Path:
    """Where the images are."""
    return Path(os.environ.get("MNIST_PATH", ROOT.parent / "shared/data/mnist_10k"))


def read(path: Path) -> np.ndarray:
    """Read an array of bytes in the IDX format, zipped."""
    with zipfile.ZipFile(path) as archive:
        raw = archive.read(archive.namelist()[0])
    axes = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def load() -> tuple[Tensor, Tensor]:
    """Images, `(n, 784)` in [0, 1], and digits."""
    images = read(folder() / "t10k-images-idx3-ubyte.zip").reshape(-1, PIXELS)
    digits = read(folder() / "t10k-labels-idx1-ubyte.zip").astype(np.int64)
    return torch.tensor(images / 255.0), torch.tensor(digits)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Certify, where the images are at hand."""
    if not folder().exists():
        print(f"{CASE}: no images in {folder().name}, left out")
        yield [
            {"case": CASE, "method": OURS, "metric": "certificate", "value": None}
            | {"unit": "", "note": "no images"}
        ]
        return
    found: dict[str, dict[str, list[float]]] = {}
    clocks: dict[str, list[float]] = {}
    for seed in SEEDS[:1] if quick else SEEDS:
        for method, value, risk, cpu in one_seed(seed, quick):
            rows = found.setdefault(method, {"certificate": [], "empirical risk": []})
            rows["certificate"].append(value)
            rows["empirical risk"].append(risk)
            clocks.setdefault(method, []).append(cpu)
            print(f"{CASE}, seed {seed}: {method} {value:.4f}", flush=True)
    yield [
        row
        for method, values in found.items()
        for row in seed_rows(CASE, method, values, clocks[method])
    ]


def one_seed(seed: int, quick: bool) -> Iterator[tuple[str, float, float, float]]:
    """Train, certify, and bound the trained network on the same half."""
    split = split_prior(*load(), seed=seed)
    (x0, y0), (x1, y1) = split.prior, split.certify
    if quick:
        x0, y0, x1, y1 = x0[:300], y0[:300], x1[:300], y1[:300]
    with Clock() as training:
        network = train(x0, y0, seed, 1 if quick else 20)
    centre = tuple(p.detach() for p in network.parameters())
    arguments = (x1, *centre)
    with Clock() as clock:
        run = GibbsPosterior(
            GibbsModel(model, nats),
            betas=BETAS[:1] if quick else BETAS,
            num_particles=4 if quick else PARTICLES,
            pilot_particles=8,
            cess=0.5,
            keep="betas",
            seed=seed,
            progress_bar=False,
        ).run(arguments, y1)
        found = certify(run.codebook(), wrong_digit, (arguments, y1))
    seconds = training.cpu + clock.cpu
    yield f"{OURS}, split prior", found.value, found.empirical_risk, seconds
    held = certify_holdout(wrong_digit(network(x1), y1))
    yield "hold-out half", held.value, held.empirical_risk, training.cpu


def train(x: Tensor, y: Tensor, seed: int, epochs: int) -> torch.nn.Sequential:
    """Fit a network by Adam."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(PIXELS, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, CLASSES),
    ).double()
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            adam.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            adam.step()
    return network


def model(x: Tensor, *centre: Tensor) -> Any:
    """The network with a narrow normal prior around the trained one."""
    names = ("w1", "b1", "w2", "b2")
    w1, b1, w2, b2 = (
        pyro.sample(name, dist.Normal(value, SCALE).to_event(value.dim()))
        for name, value in zip(names, centre, strict=True)
    )
    return torch.relu(x @ w1.mT + b1) @ w2.mT + b2


def nats(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image."""
    return cross_entropy(logits, y, reduction="none")


def wrong_digit(logits: Tensor, y: Tensor) -> Tensor:
    """One where the digit is wrong."""
    return (logits.argmax(-1) != y).to(logits)
