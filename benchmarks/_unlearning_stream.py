"""Softmax regression on a stream of digits: what online Newton steps remember.

700 steps with the forget set in the stream, a deletion, and the steps of 700 more rows
without it. Counterfactuals go through the same stream with the forget set left out;
policy-matched ones get the same treatment. Learners are online Newton steps with 64
eigenvectors, the same with all 650, and gradient descent, which has no memory.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

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
    value_of,
)
from torch import Tensor

from pyro_geo.geometry.matrices import Dense
from pyro_geo.optim import EigenONS
from pyro_geo.unlearning import (
    Decay,
    Downdate,
    Reset,
    Trajectory,
    Treatment,
    Untreated,
    memory_of,
)

CLASSES = 10
ONS, FULL, OGD = "ONS, 64 eigenvectors", "ONS, all eigenvectors", "gradient descent"
NONE = "none"
TREATMENTS: dict[str, Treatment] = {
    NONE: Untreated(),
    "downdate": Downdate(),
    "decay .002": Decay(0.002),
    "decay .01": Decay(0.01),
    "reset": Reset(),
}


def with_bias(x: Tensor) -> Tensor:
    """Add a column of ones."""
    return torch.cat([x, torch.ones(len(x), 1).double()], 1)


def gradients(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each row's loss, `(n, 650)`."""
    x = with_bias(x)
    p = (x @ theta.reshape(-1, CLASSES)).softmax(-1)
    residual = p - torch.nn.functional.one_hot(y, CLASSES)
    return (x[:, :, None] * residual[:, None]).flatten(1)


def predict(theta: Tensor, x: Tensor) -> Tensor:
    """Logits."""
    return with_bias(x) @ theta.reshape(-1, CLASSES)


class Ons:
    """Online Newton steps of this library."""

    def __init__(self, rank: int) -> None:
        self.param = torch.nn.Parameter(torch.zeros(65 * CLASSES).double())
        self.optimizer = EigenONS([self.param], rank=rank, log="all")

    def copied(self) -> "Ons":
        """A learner that goes on by itself."""
        new = copy.copy(self)
        new.optimizer = copy.deepcopy(self.optimizer)
        new.param = new.optimizer.param_groups[0]["params"][0]
        return new

    def step(self, x: Tensor, y: Tensor, tag: int) -> None:
        """Learn from one row."""
        self.param.grad = gradients(self.param.detach(), x, y)[0]
        self.optimizer.step(tag=tag)

    def learned(self) -> Learned:
        """Parameters and memory."""
        return Learned(self.param.detach().clone(), memory_of(self.optimizer))


class Dense650(Ons):
    """The same with the whole matrix, by rank-one changes of its inverse."""

    def __init__(self) -> None:
        self.theta = torch.zeros(65 * CLASSES).double()
        self.matrix, self.inverse = (torch.eye(65 * CLASSES).double() for _ in "ab")

    def copied(self) -> "Dense650":
        """A learner that goes on by itself."""
        return copy.deepcopy(self)

    def step(self, x: Tensor, y: Tensor, tag: int) -> None:
        """Learn from one row."""
        g = gradients(self.theta, x, y)[0]
        along = self.inverse @ g
        self.matrix += torch.outer(g, g)
        self.inverse -= torch.outer(along, along) / (1 + g @ along)
        self.theta = self.theta - self.inverse @ g

    def reset(self) -> None:
        """Forget the matrix."""
        self.matrix, self.inverse = (torch.eye(65 * CLASSES).double() for _ in "ab")

    def learned(self) -> Learned:
        """Parameters and memory."""
        return Learned(self.theta.clone(), Dense.from_matrix(self.matrix))


class Ogd(Ons):
    """Gradient descent with the rate `2 / sqrt(t)`."""

    def __init__(self) -> None:
        self.theta, self.t = torch.zeros(65 * CLASSES).double(), 0

    def copied(self) -> "Ogd":
        """A learner that goes on by itself."""
        return copy.deepcopy(self)

    def step(self, x: Tensor, y: Tensor, tag: int) -> None:
        """Learn from one row."""
        self.t += 1
        self.theta = self.theta - 2 / self.t**0.5 * gradients(self.theta, x, y)[0]

    def learned(self) -> Learned:
        """Parameters alone."""
        return Learned(self.theta.clone(), None)


def stream(learner: Any, data: Digits, rows: Tensor, follow: Any = None) -> None:
    """Learn from rows in their order."""
    for step, i in enumerate(rows.tolist(), 1):
        learner.step(data.x[i : i + 1], data.y[i : i + 1], i)
        if follow is not None:
            follow.after_step(learner.optimizer, step)


def probe_of(data: Digits, theta: Tensor, seen: Tensor, forget: str) -> Probe:
    """Probe with gradients at the parameters of the counterfactual."""
    gone = data.gone[seen]
    rest = seen[~gone]
    sides = (gradients(theta, data.x[i], data.y[i]) for i in (seen[gone], rest))
    forgotten, control = sides
    stay = data.test_y != 8 if forget == CLASS else data.test_y >= 0

    def slope(theta: Tensor) -> Tensor:
        return gradients(theta, data.x[rest], data.y[rest]).mean(0)

    return Probe(
        forgotten, control, slope, predict, data.test_x[stay], data.test_y[stay]
    )


def one_seed(forget: str, seed: int, half: int) -> dict[str, dict[str, float]]:
    """Learn, delete, treat, go on, and compare; by learner and treatment."""
    data = digits(forget, seed)
    first = torch.arange(half)
    later = torch.arange(half, min(2 * half, len(data.y)))
    stay = first[~data.gone[first]]
    later = later[~data.gone[later]]
    found: dict[str, dict[str, float]] = {}
    learners: dict[str, Any] = {ONS: lambda: Ons(64), FULL: Dense650, OGD: Ogd}
    for name, make in learners.items():
        seen, never = make(), make()
        stream(seen, data, first)
        stream(never, data, stay)
        plain = never.copied()
        stream(plain, data, later)
        probe = probe_of(data, plain.learned().parameters, first, forget)
        at_once = compare(seen.learned(), never.learned(), probe)
        found[f"{name}: at deletion"] = at_once
        if name == ONS:
            found |= treated(seen, never, plain, data, later, probe)
            continue
        chosen = (NONE, "reset") if name == FULL else (NONE,)
        for treatment in chosen:
            pair = seen.copied(), never.copied()
            for one in pair:
                if isinstance(one, Dense650) and treatment == "reset":
                    one.reset()
                stream(one, data, later)
            found[f"{name}: {treatment}"] = both(pair[0], plain, pair[1], probe)
    return found


def treated(
    seen: Ons, never: Ons, plain: Ons, data: Digits, later: Tensor, probe: Probe
) -> dict[str, dict[str, float]]:
    """Go on under each treatment, beside a counterfactual with the same."""
    found = {}
    entries: Any = seen.optimizer.entries
    gone = [tag for tag in entries if bool(data.gone[tag])]
    for name, treatment in TREATMENTS.items():
        if isinstance(treatment, Downdate):
            treatment = Downdate(tags=gone, allow_clip=True)
        one, two = seen.copied(), never.copied()
        moves = []
        for learner, own in ((one, treatment), (two, treatment.matched())):
            if name in (NONE, "reset"):
                follow: Any = Trajectory(own)
                follow.start(learner.optimizer)
                stream(learner, data, later, follow)
                moves.append(follow.volatility())
            else:
                own.start(learner.optimizer)
                stream(learner, data, later, own)
        key = f"{ONS}: {name}"
        found[key] = both(one, plain, two, probe)
        if moves:
            found[key]["realised volatility ratio"] = (
                moves[0].realised / moves[1].realised
            )
    return found


def both(one: Any, plain: Any, matched: Any, probe: Probe) -> dict[str, float]:
    """Compare with the plain and with the policy-matched counterfactual."""
    against = {
        "plain": compare(one.learned(), plain.learned(), probe),
        "policy-matched": compare(one.learned(), matched.learned(), probe),
    }
    return {
        f"{metric}, {reference}": value
        for reference, found in against.items()
        for metric, value in found.items()
    }


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure both forget sets."""
    torch.set_default_dtype(torch.float64)
    try:
        for forget in (CLASS,) if quick else (CLASS, RANDOM):
            seeds = range(1 if quick else 3)
            found = [one_seed(forget, s, 60 if quick else 700) for s in seeds]
            rows = []
            for method in found[0]:
                rows += rows_of(forget, method, [one[method] for one in found])
            yield rows
    finally:
        torch.set_default_dtype(torch.float32)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Gaps of forget energy after the stream, from policy-matched counterfactuals."""
    found = {}
    metric = "energy gap, policy-matched"
    for name in TREATMENTS:
        value = value_of(rows, CLASS, f"{ONS}: {name}", metric)
        if value is not None:
            found[f"stream_energy_gap/{name}"] = value
    worst = [
        max(abs(v) for v in row["values"])
        for row in rows
        if row["case"] == RANDOM and row["metric"] == metric and "ONS" in row["method"]
    ]
    if worst:
        found["stream_energy_gap/random"] = max(worst)
    return found
