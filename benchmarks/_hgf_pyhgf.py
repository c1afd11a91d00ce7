"""Reference numbers of pyhgf 0.2.12, in double precision, for the parity tests.

Run it where pyhgf is installed (it needs jax 0.4.31); it prints a file in JSON:

    python benchmarks/_hgf_pyhgf.py > tests/filtering/hgf/pyhgf_0_2_12.json
"""

from __future__ import annotations

import importlib
import json
from typing import Any

KINDS = {"classic": "standard", "ehgf_pyhgf": "eHGF", "unbounded": "unbounded"}
STEPS = 0, 1, 2, 10, 100, 200, 300, -1

CASES: dict[str, dict[str, Any]] = {
    "rate_2": {
        "kind": "continuous",
        "omega": [-3.0, -3.0],
        "kappa": [1.0],
        "mu0": [1.0357, 0.0],
        "pi0": [1e4, 1e1],
        "drift": [0.0, 0.0],
        "input_precision": 1e4,
    },
    "rate_2_learning": {
        "kind": "continuous",
        "omega": [-10.0, -2.0],
        "kappa": [0.9],
        "mu0": [1.04, 0.5],
        "pi0": [1e4, 1e1],
        "drift": [0.0, 0.0],
        "input_precision": 3e4,
    },
    "rate_3": {
        "kind": "continuous",
        "omega": [-11.0, -3.0, -4.0],
        "kappa": [1.0, 0.7],
        "mu0": [1.04, 1.0, 0.5],
        "pi0": [1e4, 1e1, 2.0],
        "drift": [1e-4, 0.0, 0.0],
        "input_precision": 1e4,
    },
    "task_2": {
        "kind": "binary",
        "omega": [-6.0],
        "kappa": [],
        "mu0": [0.5],
        "pi0": [1e4],
        "drift": [0.0],
    },
    "task_3": {
        "kind": "binary",
        "omega": [-3.0, -2.0],
        "kappa": [1.0],
        "mu0": [0.0, 0.5],
        "pi0": [1.0, 2.0],
        "drift": [0.0, 0.0],
    },
    "task_3_irregular": {
        "kind": "binary",
        "omega": [-2.5, -3.0],
        "kappa": [1.3],
        "mu0": [0.0, 0.0],
        "pi0": [1.0, 1.0],
        "drift": [0.01, 0.0],
        "time_step": [1.0, 0.5, 2.0, 1.5],
    },
}


def chain(case: dict[str, Any], kind: str) -> dict[str, Any]:
    """Filter a series with a chain of states, level 1 nearest to the input."""
    import numpy as np

    load_data = importlib.import_module("pyhgf").load_data
    Network = importlib.import_module("pyhgf.model").Network
    binary = case["kind"] == "binary"
    u = load_data("binary")[0] if binary else load_data("continuous")
    net = Network(update_type=KINDS[kind])
    if binary:
        net.add_nodes(kind="binary-state")
    else:
        net.add_nodes(precision=case["input_precision"])
    for j in range(len(case["omega"])):
        edge = (
            {"value_children": ([0], [1.0])}
            if j == 0
            else {"volatility_children": ([j], [case["kappa"][j - 1]])}
        )
        net.add_nodes(
            **edge,
            node_parameters={
                "mean": case["mu0"][j],
                "precision": case["pi0"][j],
                "tonic_volatility": case["omega"][j],
                "tonic_drift": case["drift"][j],
            },
        )
    steps = np.resize(case.get("time_step", [1.0]), len(u))
    net.input_data(input_data=np.asarray(u, float), time_steps=steps)
    nodes = [net.node_trajectories[j + 1] for j in range(len(case["omega"]))]
    seen, first = net.node_trajectories[0], nodes[0]
    x = np.asarray(seen["mean"])
    if binary:
        p = np.asarray(seen["expected_mean"])
        surprise = -np.where(x > 0.5, np.log(p), np.log(1 - p))
    else:
        hat, pihat = (
            np.asarray(first[key]) for key in ("expected_mean", "expected_precision")
        )
        surprise = 0.5 * (np.log(2 * np.pi / pihat) + pihat * (x - hat) ** 2)
    return {
        "surprise": float(surprise.sum()),
        "mu": [[float(node["mean"][k]) for k in STEPS] for node in nodes],
        "pi": [[float(node["precision"][k]) for k in STEPS] for node in nodes],
    }


def network(kind: str) -> dict[str, Any]:
    """Filter two series whose states share a value and a volatility parent."""
    import numpy as np

    load_data = importlib.import_module("pyhgf").load_data
    Network = importlib.import_module("pyhgf.model").Network
    rate = np.asarray(load_data("continuous"), float)
    net = Network(update_type=KINDS[kind])
    net.add_nodes(precision=1e4).add_nodes(precision=2e4)
    for child, mean, omega in ((0, 1.04, -9.0), (1, 1.02, -10.0)):
        net.add_nodes(
            value_children=([child], [1.0]),
            node_parameters={
                "mean": mean,
                "precision": 1e4,
                "tonic_volatility": omega,
            },
        )
    net.add_nodes(
        volatility_children=([2, 3], [1.0, 0.6]),
        node_parameters={"mean": 0.0, "precision": 4.0, "tonic_volatility": -4.0},
    )
    net.add_nodes(
        value_children=([2, 3], [0.5, -0.3]),
        node_parameters={"mean": 0.0, "precision": 1e5, "tonic_volatility": -14.0},
    )
    u = np.stack([rate, 0.5 + 0.5 * rate], -1)
    net.input_data(input_data=u)
    nodes = [net.node_trajectories[j] for j in (2, 3, 4, 5)]
    return {
        "mu": [[float(node["mean"][k]) for k in STEPS] for node in nodes],
        "pi": [[float(node["precision"][k]) for k in STEPS] for node in nodes],
    }


def differences() -> dict[str, Any]:
    """Update a parent once by the unbounded rule where ours differs on purpose."""
    import numpy as np

    Network = importlib.import_module("pyhgf.model").Network

    def parent(
        order: tuple[int, int] = (2, 3),
        observed: tuple[int, int] = (1, 1),
        other: float | None = None,
        value_child: bool = False,
    ) -> list[float]:
        net = Network(update_type="unbounded")
        net.add_nodes(precision=10.0).add_nodes(precision=10.0)
        for child in (0, 1):
            net.add_nodes(
                value_children=([child], [1.0]),
                node_parameters={"precision": 20.0, "tonic_volatility": -2.0},
            )
        second = {"volatility_children": ([child for child in order], [1.0, 1.0])}
        if value_child:
            second = {
                "volatility_children": ([3], [1.0]),
                "value_children": ([2], [1.0]),
            }
        start = {"mean": 0.5, "precision": 0.5, "tonic_volatility": -2.0}
        net.add_nodes(**second, node_parameters=start)
        if other is not None:
            net.add_nodes(
                volatility_children=([2, 3], [1.0, 1.0]),
                node_parameters={
                    "mean": other,
                    "precision": 50.0,
                    "tonic_volatility": -6.0,
                },
            )
        net.input_data(
            input_data=np.array([[0.1, 8.0]]),
            observed=np.array([observed]),
        )
        found = net.node_trajectories[4]
        return [float(found["mean"][0]), float(found["precision"][0])]

    return {
        "order": parent(),
        "order_reversed": parent(order=(3, 2)),
        "unobserved": parent(observed=(0, 0)),
        "one_unobserved": parent(order=(3, 2), observed=(1, 0)),
        "other_parent": parent(order=(3, 2), other=2.0),
        "value_child": parent(value_child=True),
    }


def main() -> None:
    """Print the numbers of every case and rule."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    pyhgf = importlib.import_module("pyhgf")
    found = {
        name: {kind: chain(case, kind) for kind in KINDS}
        for name, case in CASES.items()
    }
    sums = {kind: network(kind) for kind in ("classic", "ehgf_pyhgf")}
    versions = {"pyhgf": pyhgf.__version__, "jax": jax.__version__}
    everything = {
        "versions": versions,
        "steps": STEPS,
        "cases": CASES,
        "found": found,
        "network": sums,
        "differences": differences(),
    }
    print(json.dumps(everything, indent=None, separators=(",", ":")))


if __name__ == "__main__":
    main()
