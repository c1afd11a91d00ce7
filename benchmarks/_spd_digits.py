"""Fine-tuning a digits network in four settings, by five optimisers.

A network 64-128-128-10 is pretrained on seven corruptions of 800 digits and fine-tuned
on few images of a shifted domain. It is scored on that domain (ID), on the shift with
further corruptions (OOD) and on the domains of the pretraining (retained). The strength
of every method is chosen on 150 validation images of the shifted domain alone.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from _bench import Row
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from pyro_geo.optim import SPD

METHODS = ("Adam", "AdamW", "L2-SP", "decoupled L2-SP", "SPD", "SPD, spd=1")
STRENGTHS = {
    "Adam": (0.0,),
    "AdamW": (1e-2, 1e-1, 1.0),
    "L2-SP": (1e-3, 1e-2, 1e-1),
    "decoupled L2-SP": (1e-1, 1.0, 10.0),
    "SPD": (0.5, 1.0, 2.0, 4.0),
    "SPD, spd=1": (1.0,),
}
PRETRAINING, TUNING = 1_500, 300
LR = 1e-3


class Setting(NamedTuple):
    """A shift, and what it is learned from."""

    shift: str
    num_images: int
    wrong: float = 0.0


SETTINGS = {
    "half-dimmed": Setting("dim", 60),
    "half-dimmed, 30 % wrong labels": Setting("dim", 200, 0.3),
    "rotated by 60 degrees": Setting("rotate", 100),
    "inverted": Setting("invert", 150),
}


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Turn images, `(n, 64)`."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])
    grid = functional.affine_grid(
        turn.expand(len(x), 2, 3), [len(x), 1, 8, 8], align_corners=False
    )
    images = x.view(-1, 1, 8, 8)
    return functional.grid_sample(images, grid, align_corners=False).reshape(-1, 64)


def shifted(x: Tensor, kind: str) -> Tensor:
    """Move images to a domain."""
    if kind == "dim":  # the right half is dark
        keep = (torch.arange(64) % 8 < 4).to(x)
        return x * (0.25 + 0.75 * keep)
    return 1 - x if kind == "invert" else rotated(x, 60.0)


def corruptions(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Make the corruptions of the pretraining, the images as they are among them."""
    images = x.view(-1, 1, 8, 8)
    noise = torch.randn(x.shape, generator=generator)
    blurred = functional.avg_pool2d(images, 3, 1, 1).reshape(-1, 64)
    moved = torch.roll(images, 1, -1).reshape(-1, 64)
    holes = (torch.rand(x.shape, generator=generator) > 0.15).to(x)
    return {
        "clean": x,
        "noise": x + 0.15 * noise,
        "blur": blurred,
        "moved": moved,
        "contrast": 0.5 + 0.5 * (x - 0.5),
        "holes": x * holes,
        "turned": rotated(x, 12.0),
    }


def network(seed: int) -> torch.nn.Sequential:
    """Make the network."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )


def train(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    num_steps: int,
    seed: int,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Train on batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        rows = torch.randint(len(y), (64,), generator=generator)
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x[rows]), y[rows])
        (loss if penalty is None else loss + penalty()).backward()
        optimizer.step()


def tune(
    net: Any, method: str, strength: float, x: Tensor, y: Tensor, seed: int
) -> None:
    """Fine-tune in place."""
    params = list(net.parameters())
    start = [p.detach().clone() for p in params]
    penalty: Callable[[], Tensor] | None = None
    if method.startswith("SPD"):
        optimizer: Any = SPD(params, lr=LR, spd=strength)
    elif method == "AdamW":
        optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=strength, fused=True)
    else:
        optimizer = torch.optim.Adam(params, lr=LR, fused=True)
    if method == "L2-SP":

        def held() -> Tensor:
            gaps = [(p - a).square().sum() for p, a in zip(params, start, strict=True)]
            return strength / 2 * torch.stack(gaps).sum()

        penalty = held

    if method == "decoupled L2-SP":

        def pull(*_: object) -> None:
            with torch.no_grad():
                for p, a in zip(params, start, strict=True):
                    p.lerp_(a, LR * strength)

        optimizer.register_step_post_hook(pull)
    train(net, optimizer, x, y, TUNING, seed, penalty)


@torch.no_grad()
def accuracy(net: Any, x: Tensor, y: Tensor) -> float:
    """Score in percent."""
    return 100 * float((net(x).argmax(-1) == y).double().mean())


class Repetition:
    """Data and a pretrained network of one seed."""

    def __init__(self, seed: int, num_steps: int) -> None:
        pixels, labels = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        x = torch.as_tensor(pixels / 16, dtype=torch.float32)[order]
        y = torch.as_tensor(labels)[order]
        self.seed, self.generator = seed, generator
        self.x, self.y = x, y
        known = corruptions(x[:800], generator)
        self.net = network(seed)
        optimizer = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)
        both = torch.cat(list(known.values())), y[:800].repeat(len(known))
        train(self.net, optimizer, *both, num_steps, seed)
        self.kept = corruptions(x[1300:], generator)

    def scores(self, setting: Setting, method: str) -> dict[str, float]:
        """Fine-tune with every strength, and score the one that validates best."""
        test = slice(1300, None)
        x, y = shifted(self.x, setting.shift), self.y
        rows = slice(800, 800 + setting.num_images)
        generator = torch.Generator().manual_seed(self.seed + 100)
        labels = y[rows].clone()
        lies = torch.rand(labels.shape, generator=generator) < setting.wrong
        labels[lies] = torch.randint(10, labels.shape, generator=generator)[lies]
        best: tuple[float, Any] = (-1.0, None)
        for strength in STRENGTHS[method]:
            net = network(self.seed)
            net.load_state_dict(self.net.state_dict())
            tune(net, method, strength, x[rows], labels, self.seed)
            score = accuracy(net, x[1100:1250], y[1100:1250])
            best = max(best, (score, (strength, net)), key=lambda pair: pair[0])
        strength, net = best[1]
        generator = torch.Generator().manual_seed(self.seed + 200)
        further = corruptions(x[test], generator)
        del further["clean"]
        gaps = [
            (p - a).square().sum()
            for p, a in zip(net.parameters(), self.net.parameters(), strict=True)
        ]
        far = [accuracy(net, other, y[test]) for other in further.values()]
        kept = [accuracy(net, other, y[test]) for other in self.kept.values()]
        return {
            "ID": accuracy(net, x[test], y[test]),
            "OOD": statistics.mean(far),
            "retained": statistics.mean(kept),
            "distance": float(torch.stack(gaps).sum().sqrt().detach()),
            "strength": strength,
        }


def digits(quick: bool) -> Iterator[list[Row]]:
    """Fine-tune in all settings."""
    torch.set_num_threads(1)
    count = 1 if quick else 4
    runs = [Repetition(seed, 20 if quick else PRETRAINING) for seed in range(count)]
    for name, setting in list(SETTINGS.items())[: 1 if quick else None]:
        rows: list[Row] = []
        for method in METHODS:
            found = [run.scores(setting, method) for run in runs]
            for metric in found[0]:
                values = [score[metric] for score in found]
                sd = statistics.stdev(values) / count**0.5 if count > 1 else 0.0
                unit = "%" if metric in ("ID", "OOD", "retained") else ""
                row = {"case": name, "method": method, "metric": metric, "unit": unit}
                value = statistics.mean(values)
                rows.append({**row, "value": value, "sd": sd, "seeds": count})
        yield rows


def differences(rows: list[Row]) -> dict[str, float]:
    """Subtract Adam's scores from those of SPD at strength 1 and as validated."""
    scores = {(r["case"], r["method"], r["metric"]): r["value"] for r in rows}
    found: dict[str, float] = {}
    cases = list(dict.fromkeys(r["case"] for r in rows))
    for method, label in (("SPD, spd=1", "spd_1"), ("SPD", "validated")):
        for metric in ("ID", "OOD", "retained", "distance"):
            gaps = [
                scores[case, method, metric] - scores[case, "Adam", metric]
                for case in cases
            ]
            if gaps:
                found[f"{metric}_minus_adam/{label}/mean"] = statistics.mean(gaps)
                if metric == "ID":
                    found[f"{metric}_minus_adam/{label}/worst"] = min(gaps)
    return found
