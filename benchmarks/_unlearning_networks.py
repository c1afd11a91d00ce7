"""A network of digits, trained, made to forget a class, and trained on.

64-32-10 with 20 epochs of batches of 64, a deletion, and 10 epochs without the forget
set. Counterfactuals get the same batches with the forget set left out. Energies are
taken at the parameters of the counterfactual at the end.
"""

import copy
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from _bench import Row
from _unlearning_digits import (
    CLASS,
    RANDOM,
    Digits,
    Learned,
    Probe,
    compare,
    digits,
    rows_of,
)
from torch import Tensor

from pyro_geo.optim import EigenONS
from pyro_geo.unlearning import (
    Decay,
    Reset,
    Treatment,
    Untreated,
    auc,
    memory_of,
)

BATCH = 64
NONE = "none"
TREATMENTS: dict[str, Treatment] = {
    NONE: Untreated(),
    "decay .2 an epoch": Decay(0.2, every=22),
    "reset": Reset(),
}
Make = Callable[[Any], Any]


class Sizes(NamedTuple):
    """Epochs before and after the deletion."""

    before: int
    after: int


def optimisers() -> dict[str, Make]:
    """Make those that are installed."""
    found: dict[str, Make] = {
        "AdamW": lambda params: torch.optim.AdamW(params, 3e-3, betas=(0.9, 0.999)),
        "EigenONS": lambda params: EigenONS(params, 0.3, rank=64, floor=0.1),
    }
    try:
        peers: Any = importlib.import_module("pytorch_optimizer")
    except ImportError:
        print("pytorch_optimizer: not installed")
        return found
    shampoo = {"preconditioning_compute_steps": 1, "matrix_eps": 1e-3}
    soap = {"precondition_1d": True, "betas": (0.95, 0.99), "weight_decay": 0.0}
    found["Shampoo"] = lambda params: peers.Shampoo(params, 0.1, **shampoo)
    found["SOAP"] = lambda params: peers.SOAP(params, 3e-3, **soap)
    return found


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """Logits of the network from its flat parameters."""
    w, b, v, c = theta.split((64 * 32, 32, 32 * 10, 10))
    hidden = (x @ w.reshape(32, 64).mT + b).relu()
    return hidden @ v.reshape(10, 32).mT + c


def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy."""
    return torch.nn.functional.cross_entropy(outputs(theta, x), y)


def slopes(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each row's loss, `(n, 2410)`."""

    def one(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return loss(theta, x[None], y[None])

    return torch.func.vmap(torch.func.grad(one), (None, 0, 0))(theta, x, y)


class Learner:
    """A network with its optimiser, trained in a fixed order of batches."""

    def __init__(self, make: Make, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = torch.nn.Sequential(
                torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
            )
        self.make = make
        self.optimizer = make(self.net.parameters())

    def copied(self) -> "Learner":
        """A learner that goes on by itself; some optimisers lose options in copies."""
        new = copy.copy(self)
        new.net = copy.deepcopy(self.net)
        new.optimizer = self.make(new.net.parameters())
        new.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return new

    def train(
        self,
        data: Digits,
        epochs: range,
        seed: int,
        left_out: Tensor | None,
        treatment: Treatment | None = None,
    ) -> None:
        """Go through epochs; rows that are left out are missing from their batches."""
        step = 0
        for epoch in epochs:
            generator = torch.Generator().manual_seed(10_000 * seed + epoch)
            order = torch.randperm(len(data.y), generator=generator)
            for batch in order.split(BATCH):
                rows = batch if left_out is None else batch[~left_out[batch]]
                if not len(rows):
                    continue
                self.optimizer.zero_grad()
                out = self.net(data.x[rows])
                torch.nn.functional.cross_entropy(out, data.y[rows]).backward()
                self.optimizer.step()
                step += 1
                if treatment is not None:
                    treatment.after_step(self.optimizer, step)

    def learned(self) -> Learned:
        """Parameters and memory."""
        theta = torch.cat([p.detach().flatten() for p in self.net.parameters()])
        return Learned(theta.clone(), memory_of(self.optimizer))


def probe_of(data: Digits, theta: Tensor, forget: str) -> Probe:
    """Probe with gradients at the parameters of the counterfactual."""
    gone, rest = (slopes(theta, data.x[m], data.y[m]) for m in (data.gone, ~data.gone))
    stay = data.test_y != 8 if forget == CLASS else data.test_y >= 0
    x, y = data.x[~data.gone], data.y[~data.gone]

    def slope(theta: Tensor) -> Tensor:
        return torch.func.grad(loss)(theta, x, y)

    return Probe(gone, rest, slope, outputs, data.test_x[stay], data.test_y[stay])


def one_seed(
    make: Make, forget: str, seed: int, sizes: Sizes
) -> dict[str, dict[str, float]]:
    """Train, delete, treat, train on, and compare, by treatment."""
    data = digits(forget, seed)
    first = range(sizes.before)
    later = range(sizes.before, sizes.before + sizes.after)
    seen, never = Learner(make, seed), Learner(make, seed)
    seen.train(data, first, seed, None)
    never.train(data, first, seed, data.gone)
    plain = never.copied()
    plain.train(data, later, seed, data.gone)
    reference = plain.learned()
    probe = probe_of(data, reference.parameters, forget)
    found = {"at deletion": compare(seen.learned(), never.learned(), probe)}
    for name, treatment in TREATMENTS.items():
        one, two = seen.copied(), never.copied()
        for learner in (one, two):
            treatment.start(learner.optimizer)
            learner.train(data, later, seed, data.gone, treatment)
        against = compare(one.learned(), two.learned(), probe)
        untreated = compare(one.learned(), reference, probe)
        found[name] = against | {"airm, plain": untreated["airm"]}
    return found


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure each optimiser and forget set."""
    torch.set_default_dtype(torch.float64)
    sizes = Sizes(1, 1) if quick else Sizes(20, 10)
    try:
        for forget in (CLASS,) if quick else (CLASS, RANDOM):
            for name, make in optimisers().items():
                count = 1 if quick else 5 if forget == CLASS else 3
                found = [one_seed(make, forget, s, sizes) for s in range(count)]
                rows = []
                for treatment in found[0]:
                    own = [one[treatment] for one in found]
                    rows += rows_of(forget, f"{name}: {treatment}", own)
                yield rows
    finally:
        torch.set_default_dtype(torch.float32)


def attack(rows: Sequence[Row], method: str) -> float | None:
    """An attacker sees one memory of each seed, with and without the forget set."""
    sides: dict[str, list[float]] = {}
    for row in rows:
        if row["case"] == CLASS and row["method"] == method:
            sides[row["metric"]] = row["values"]
    if "energy" not in sides:
        return None
    seen, never = (
        torch.tensor(sides[name]) for name in ("energy", "energy of the reference")
    )
    return auc(seen, never).value


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Whether states that forgot a class can be told from those that never saw it."""
    found = {}
    for key, method in (
        ("state_attack_auc/untreated", f"Shampoo: {NONE}"),
        ("state_attack_auc/reset", "Shampoo: reset"),
    ):
        value = attack(rows, method)
        if value is not None:
            found[key] = value
    return found
