"""What the parts of the unlearning benchmark share: digits, probes, comparisons."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from _bench import Row
from sklearn.datasets import load_digits
from torch import Tensor

from pyro_geo.geometry.distances import airm
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.geometry.spectra import floored
from pyro_geo.unlearning import auc, forget_energy
from pyro_geo.unlearning.membership import rayleigh

CLASS, RANDOM = "class 8", "random 5 %"
FORGOTTEN = 8
TEST = 400


class Digits(NamedTuple):
    """Handwritten digits, split by a seed."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    gone: Tensor


class Learned(NamedTuple):
    """A learner at one time."""

    parameters: Tensor
    memory: PositiveDefinite | None


class Probe(NamedTuple):
    """How a comparison looks at a learner."""

    forget: Tensor
    control: Tensor
    retained: Any
    predict: Any
    test: Tensor
    answers: Tensor


def digits(forget: str, seed: int) -> Digits:
    """Load and split the digits, and choose what is forgotten."""
    bunch: Any = load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float64) / 16
    y = torch.tensor(bunch.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    x, y = x[order], y[order]
    train, test = slice(TEST, None), slice(TEST)
    gone = y[train] == FORGOTTEN
    if forget == RANDOM:
        gone = torch.rand(len(gone), generator=generator) < 0.05
    return Digits(x[train], y[train], x[test], y[test], gone)


def compare(one: Learned, two: Learned, probe: Probe) -> dict[str, float]:
    """Hold a learner against a reference, on data of classes that stay."""
    logits = [probe.predict(s.parameters, probe.test) for s in (one, two)]
    p, q = (z.softmax(-1) for z in logits)
    slopes = [probe.retained(s.parameters) for s in (one, two)]
    cosine = torch.nn.functional.cosine_similarity(*slopes, dim=0)
    entropy = torch.special.entr
    spread = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    found = {
        "accuracy": accuracy(p, probe.answers),
        "accuracy of the reference": accuracy(q, probe.answers),
        "js": float(spread.sum(-1).mean()),
        "gradient cosine": float(cosine),
    }
    if one.memory is None or two.memory is None:
        return found
    raised = [floored(s.memory, 1e-3) for s in (one, two) if s.memory is not None]
    steps = [m.solve(probe.forget) for m in raised]
    turned = torch.nn.functional.cosine_similarity(*steps, dim=1).clamp(-1, 1)
    energies = [energy(s, probe) for s in (one, two)]
    scores = [rayleigh(one.memory, g) for g in (probe.forget, probe.control)]
    return found | {
        "airm": airm(*raised),
        "angle on forget gradients": float(turned.arccos().rad2deg().mean()),
        "energy": energies[0],
        "energy of the reference": energies[1],
        "energy gap": energies[0] - energies[1],
        "per-example auc": auc(scores[0], scores[1]).value,
    }


def energy(learned: Learned, probe: Probe) -> float:
    """Forget energy of a learner that has a memory."""
    assert learned.memory is not None
    return forget_energy(learned.memory, probe.forget, probe.control)


def accuracy(p: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    return float((p.argmax(-1) == y).double().mean())


def rows_of(
    case: str,
    method: str,
    found: Sequence[Mapping[str, float]],
    prefix: str = "",
) -> list[Row]:
    """Summarise seeds: mean and spread of each number."""
    rows = []
    for metric in found[0]:
        values = [one[metric] for one in found]
        rows.append(
            {
                "case": case,
                "method": method,
                "metric": f"{prefix}{metric}",
                "value": statistics.fmean(values),
                "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
                "unit": unit_of(metric),
                "seeds": len(values),
                "values": values,
            }
        )
    return rows


def unit_of(metric: str) -> str:
    """Unit of a number by its name."""
    if "energy" in metric or metric.startswith(("js", "airm")):
        return "nat"
    return "degree" if "angle" in metric else "1"


def value_of(rows: Sequence[Row], case: str, method: str, metric: str) -> float | None:
    """Look a mean up; None where it was not measured."""
    for row in rows:
        if (row["case"], row["method"], row["metric"]) == (case, method, metric):
            return float(row["value"])
    return None
