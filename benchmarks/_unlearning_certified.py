"""An attack on parameters and memories after certified deletion of a digit class.

The network and the optimiser are those of the part on networks, Shampoo. Both sides go
through the same certified deletion: learners that saw the class, and learners that
never did. An attacker sees one memory at a time, and scores it by its forget energy.
Noise seeds are independent between the sides.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from _bench import Row
from _unlearning_digits import CLASS, Digits, digits, energy, rows_of, value_of
from _unlearning_networks import Learner, optimisers, probe_of
from torch import Tensor

from pyro_geo.unlearning import auc, forget

EPSILON, DELTA = 1.0, 1e-5
NOISES = 8  # of each trained learner
EPOCHS = (2, 5, 10, 20)  # on the retained data, at which the accuracy is read


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Loss of each row."""
    return torch.nn.functional.cross_entropy(logits, y, reduction="none")


def accuracy(net: torch.nn.Module, data: Digits) -> float:
    """Share of right answers on test data of the classes that stay."""
    stay = data.test_y != 8
    with torch.no_grad():
        found = net(data.test_x[stay]).argmax(-1) == data.test_y[stay]
    return float(found.double().mean())


def certified(learner: Learner, data: Digits, epochs: int, seed: int) -> Any:
    """Delete the class with a certificate."""
    return forget(
        learner.net,
        data.x,
        data.y,
        forget=data.gone,
        loss=cross_entropy,
        optimizer=learner.optimizer,
        certify=(EPSILON, DELTA),
        options={"num_epochs": epochs},
        seed=seed,
    )


def state(result: Any, like: Learner) -> Any:
    """Parameters and memory after a deletion."""
    new = Learner.__new__(Learner)
    new.net, new.optimizer, new.make = result.fit, result.optimizer, like.make
    return new.learned()


def one_seed(seed: int, before: int, after: int, noises: int) -> list[dict[str, float]]:
    """Train with and without the class, delete from both, and score."""
    data, make = digits(CLASS, seed), optimisers()["Shampoo"]
    seen, never = Learner(make, seed), Learner(make, seed)
    seen.train(data, range(before), seed, None)
    never.train(data, range(before), seed, data.gone)
    retrained = accuracy(never.net, data)
    reference = never.learned()
    probe = probe_of(data, reference.parameters, CLASS)
    found = []
    for noise in range(noises):
        start = time.process_time()
        own = certified(seen, data, after, 2 * (1000 * seed + noise))
        taken = time.process_time() - start
        other = certified(never, data, after, 2 * (1000 * seed + noise) + 1)
        found.append(
            {
                "energy": energy(state(own, seen), probe),
                "energy of the reference": energy(state(other, never), probe),
                "accuracy": accuracy(own.fit, data),
                "accuracy of retraining": retrained,
                "seconds": taken,
                "bound on the auc": own.certificate.attack_auc,
            }
        )
    return found


def recovery(seed: int, before: int, epochs: Sequence[int]) -> dict[str, float]:
    """Accuracy after some epochs, beside as many of a new training."""
    data, make = digits(CLASS, seed), optimisers()["Shampoo"]
    seen = Learner(make, seed)
    seen.train(data, range(before), seed, None)
    found = {}
    for count in epochs:
        fresh = Learner(make, seed + 500)
        fresh.train(data, range(count), seed + 500, data.gone)
        own = certified(seen, data, count, 7 + 1000 * seed)
        found[f"accuracy after {count}"] = accuracy(own.fit, data)
        found[f"accuracy after {count}, new training"] = accuracy(fresh.net, data)
    return found


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure the attack, then what the recovery costs."""
    if "Shampoo" not in optimisers():
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        sizes = (1, 1, 1) if quick else (20, 20, NOISES)
        found = [one for s in range(1 if quick else 20) for one in one_seed(s, *sizes)]
        yield rows_of(CLASS, "Shampoo: certified", found)
        curve = [
            recovery(s, 1 if quick else 20, (1,) if quick else EPOCHS)
            for s in range(1 if quick else 3)
        ]
        yield rows_of(CLASS, "Shampoo: recovery", curve)
    finally:
        torch.set_default_dtype(before)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How well the attack does, and what the certificate costs in accuracy."""
    own = [r for r in rows if r["method"] == "Shampoo: certified"]
    sides = {row["metric"]: torch.tensor(row["values"]) for row in own}
    if "energy" not in sides:
        return {}
    method = "Shampoo: certified"
    ours = value_of(rows, CLASS, method, "accuracy")
    theirs = value_of(rows, CLASS, method, "accuracy of retraining")
    assert ours is not None
    assert theirs is not None
    found = auc(sides["energy"], sides["energy of the reference"]).value
    return {
        # an attacker may also call the lower scores deletions
        "state_attack_auc/ours": max(found, 1 - found),
        "certified_accuracy_lost": theirs - ours,
    }
