"""Networks beside pyhgf 0.2.12: equal where it is right, nearer to the truth elsewhere.

Its numbers are printed by benchmarks/_hgf_pyhgf.py.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_geo.filtering.hgf.network import HGFNetwork
from pyro_geo.filtering.hgf.network.children import Children, children_energy

GOLDEN = json.loads(Path(__file__).with_name("pyhgf_0_2_12.json").read_text())
SERIES = Path(__file__).parents[3] / "models" / "data" / "hgf_series"
STEPS = GOLDEN["steps"]

pytestmark = pytest.mark.usefixtures("double_precision")


def column(file: str, name: str) -> Tensor:
    with (SERIES / file).open() as rows:
        return torch.tensor([float(row[name]) for row in csv.DictReader(rows)])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def chain(case: dict[str, Any], update: Any) -> HGFNetwork:
    network, levels = HGFNetwork(update=update, predictive="state"), len(case["omega"])
    for j in range(levels):
        above = {f"x{j + 2}": case["kappa"][j]} if j + 1 < levels else {}
        network.add_state(
            f"x{j + 1}",
            omega=case["omega"][j],
            drift=case["drift"][j],
            mu0=case["mu0"][j],
            pi0=case["pi0"][j],
            volatility_parents=above,
        )
    noise = case.get("input_precision")
    return network.observe("x1", case["kind"], input_precision=noise)


def series(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if case["kind"] == "binary":
        u = column("binary_task.csv", "outcome")
    else:
        u = column("usdchf.csv", "rate")
    step = torch.tensor(case.get("time_step", [1.0]))
    return u, step.repeat(len(u) // len(step) + 1)[: len(u)]


@pytest.mark.parametrize("update", ["classic", "ehgf_pyhgf", "unbounded"])
@pytest.mark.parametrize("name", list(GOLDEN["cases"]))
def test_chains_give_the_numbers_of_pyhgf(name: str, update: Any):
    case, expected = GOLDEN["cases"][name], GOLDEN["found"][name][update]
    u, step = series(case)
    found = chain(case, update)(u, time_step=step)
    assert math.isclose(float(found.surprise.sum()), expected["surprise"], rel_tol=1e-8)
    for j, (mu, pi) in enumerate(zip(expected["mu"], expected["pi"], strict=True), 1):
        for value, numbers in ((found.mu, mu), (found.pi, pi)):
            here = value[f"x{j}"][STEPS]
            torch.testing.assert_close(
                here, torch.tensor(numbers), rtol=1e-8, atol=1e-8
            )


def test_the_published_totals_are_met():
    totals = (("rate_2", "ehgf_pyhgf", -1141.09), ("task_2", "unbounded", 215.588))
    for name, update, total in totals:
        u, _ = series(GOLDEN["cases"][name])
        found = chain(GOLDEN["cases"][name], update)(u).surprise.sum()
        assert abs(float(found) - total) < 2e-3


@pytest.mark.parametrize("update", ["classic", "ehgf_pyhgf"])
def test_sums_over_children_and_value_parents_are_those_of_pyhgf(update: Any):
    rate = column("usdchf.csv", "rate")
    network = HGFNetwork(update=update)
    for name, mean, omega, kappa, psi, noise in (
        ("a", 1.04, -9.0, 1.0, 0.5, 1e4),
        ("b", 1.02, -10.0, 0.6, -0.3, 2e4),
    ):
        network.add_state(
            name,
            omega=omega,
            mu0=mean,
            pi0=1e4,
            volatility_parents={"volatility": kappa},
            value_parents={"trend": psi},
        ).observe(name, input_precision=noise)
    network.add_state("volatility", omega=-4.0, mu0=0.0, pi0=4.0)
    network.add_state("trend", omega=-14.0, mu0=0.0, pi0=1e5)
    found = network({"a": rate, "b": 0.5 + 0.5 * rate})
    expected = GOLDEN["network"][update]
    for j, name in enumerate(network.graph.names):
        for value, numbers in ((found.mu, expected["mu"]), (found.pi, expected["pi"])):
            here = value[name][STEPS]
            close(here, torch.tensor(numbers[j]))


# One step of two observed states and their parent, where ours differs on purpose.


class Energy(NamedTuple):
    """What a parent's belief approximates."""

    children: Children
    mean: Tensor
    precision: Tensor


def step(
    order: tuple[str, str] = ("a", "b"),
    observed: tuple[bool, bool] = (True, True),
    other: float | None = None,
    value_child: bool = False,
) -> tuple[Tensor, Energy]:
    """Our mean and precision of the parent, and the energy that they approximate."""
    network = HGFNetwork()
    for name in ("a", "b"):
        network.add_state(name, omega=-2.0, pi0=20.0).observe(
            name, input_precision=10.0
        )
    network.add_state("parent", omega=-2.0, mu0=0.5, pi0=0.5)
    for name in order:
        coupling = "value" if value_child and name == "a" else "volatility"
        network.connect(name, "parent", coupling)
    if other is not None:
        network.add_state("other", omega=-6.0, mu0=other, pi0=50.0)
        for name in ("a", "b"):
            network.connect(name, "other", "volatility")
    data = {"a": torch.tensor([0.1]), "b": torch.tensor([8.0])}
    seen = {name: torch.tensor([o]) for name, o in zip("ab", observed, strict=True)}
    found = network(data, observed=seen)
    last = {key: getattr(found, key) for key in ("mu", "pi", "muhat", "pihat")}
    row = {key: {n: v[0] for n, v in last[key].items()} for key in last}
    m, p = row["muhat"]["parent"], row["pihat"]["parent"]
    names = ["b"] if value_child else ["a", "b"]
    beta = [1 / row["pi"][n] + (row["mu"][n] - row["muhat"][n]) ** 2 for n in names]
    above = 0.0 if other is None else other
    children = Children(
        torch.full((len(names),), 1 / 20.0),
        torch.stack(beta),
        torch.ones(len(names)),
        torch.full((len(names),), -2.0 + above),
        torch.tensor([dict(zip("ab", observed, strict=True))[n] for n in names]),
    )
    if value_child:  # exact: the child's error weighed by its predicted precision
        error = row["mu"]["a"] - row["muhat"]["a"]
        total = p + row["pihat"]["a"]
        m, p = m + row["pihat"]["a"] * error / total, total
    belief = torch.stack([row["mu"]["parent"], row["pi"]["parent"]])
    return belief, Energy(children, m, p)


def divergence(belief: Tensor, energy: Energy) -> float:
    """Divergence of a normal belief from the density exp I, by brute force."""
    x = torch.linspace(-60.0, 60.0, 40_001)
    log_p = children_energy(x, *energy)
    log_p = log_p - torch.logsumexp(log_p, 0)
    mean, precision = belief
    log_q = -0.5 * precision * (x - mean) ** 2
    log_q = log_q + 0.5 * torch.log(precision / (2 * math.pi)) + math.log(120 / 40_000)
    return float((log_p.exp() * (log_p - log_q)).sum())


def theirs(name: str) -> Tensor:
    return torch.tensor(GOLDEN["differences"][name])


def test_the_order_of_children_makes_no_difference():
    one, energy = step(("a", "b"))
    two, _ = step(("b", "a"))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=0)
    assert divergence(one, energy) < 0.1
    # pyhgf follows the first child alone
    assert theirs("order")[0] < 0.1
    assert theirs("order_reversed")[0] > 4.0
    assert divergence(theirs("order"), energy) > 0.25


def test_nothing_is_learned_of_children_that_are_not_observed():
    ours, prediction = step(observed=(False, False))
    expected = torch.stack([prediction.mean, prediction.precision])
    torch.testing.assert_close(ours, expected, rtol=1e-15, atol=0)
    assert (theirs("unobserved") - ours).abs().max() > 0.05
    one, energy = step(observed=(True, False))
    assert divergence(one, energy) < 0.1
    assert divergence(one, energy) < divergence(theirs("one_unobserved"), energy) / 1.2


def test_other_volatility_parents_count():
    ours, energy = step(other=2.0)
    assert divergence(ours, energy) < 0.1
    assert divergence(theirs("other_parent"), energy) > 0.25


def test_value_children_of_a_volatility_parent_count():
    ours, energy = step(value_child=True)
    assert divergence(ours, energy) < 0.1
    assert divergence(theirs("value_child"), energy) > 0.25
