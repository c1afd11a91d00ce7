"""One controller on every network of a file, with and without noise.

Four entries of the rules are unknown. The late cost is that of the last thirty of sixty
steps. All controllers meet the same rules, first states and mutations, so that their
costs are compared in pairs.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from _bench import ROOT, Row
from scipy.stats import t as student

from pyro_geo.planning import (
    MMRL,
    make_selector,
    mean_rule,
    most_probable_rule,
    thompson_rule,
)
from pyro_geo.planning.boolean_network import (
    Channel,
    Episodes,
    NetworkControl,
    NetworkRuns,
    load_networks,
    no_control,
)
from pyro_geo.planning.selectors import Select

FILE = ROOT / "models" / "data" / "gene_networks" / "networks.json"
# chosen beforehand, on runs of other seeds than these: one rule for all networks
DEFAULT = make_selector("ucb")
MUTATION, NOISE, STEPS, LATE, RUNS, SEED = 0.01, 0.05, 60, 30, 128, 0
LEARNING = ("UCB", "mean", "Thompson", "certainty equivalence", "MMRL")
_UNITS = {"over_known": "ratio", "captured": "share"}
SETTINGS = {"noisy": Channel.bernoulli(NOISE), "seen": None}


class Paired(NamedTuple):
    """Difference of two controllers over runs, with a 95 % interval."""

    mean: float
    low: float
    high: float


def paired(first: torch.Tensor, second: torch.Tensor) -> Paired:
    """Compare costs run by run; negative where the first is cheaper."""
    gap = (first - second).double()
    mean, sd = float(gap.mean()), float(gap.std())
    half = float(student.ppf(0.975, len(gap) - 1)) * sd / math.sqrt(len(gap))
    return Paired(mean, mean - half, mean + half)


def late(episodes: Episodes) -> torch.Tensor:
    """Mean cost of the last steps of each run."""
    return episodes.costs[-LATE:].mean(0)


def controllers(count: int) -> dict[str, Select]:
    """The rules that learn; `count` rule sets are there."""
    generator = torch.Generator().manual_seed(SEED)
    few = torch.randint(count, (5,), generator=generator)
    rules: tuple[Select, ...] = (
        DEFAULT,
        mean_rule,
        thompson_rule,
        most_probable_rule,
        MMRL(few),
    )
    return dict(zip(LEARNING, rules, strict=True))


def myopic(problem: NetworkControl) -> Iterator[tuple[str, torch.Tensor]]:
    """Names of rules that look one and two steps ahead, and their action values."""
    sets = problem.network.rule_sets()
    for horizon, name in ((1, "myopic, one step"), (2, "myopic, two steps")):
        yield name, problem.solve(sets, horizon=horizon).action_values


@contextmanager
def single() -> Iterator[None]:
    """Compute in single precision inside this context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def measure_network(problem: NetworkControl, num_runs: int) -> dict[str, torch.Tensor]:
    """Late costs of all controllers, `(runs,)` each."""
    sets = problem.network.rule_sets()
    q = problem.solve(sets, tolerance=1e-3).action_values
    runs = NetworkRuns(problem, num_runs=num_runs, num_steps=STEPS, seed=SEED)
    costs = {
        "no control": late(runs.known(q, no_control)),
        "known rules": late(runs.known(q)),
    }
    for name, select in controllers(len(sets)).items():
        costs[name] = late(runs.unknown(select, q))
    for name, few in myopic(problem):
        costs[name] = late(runs.unknown(mean_rule, few))
    return costs


def rows_of(
    case: str, setting: str, costs: dict[str, torch.Tensor], seconds: float
) -> list[Row]:
    """Rows of one network."""
    rows: list[Row] = []
    common = {"case": case, "setting": setting, "seeds": len(costs["UCB"])}
    none, known = (float(costs[n].mean()) for n in ("no control", "known rules"))
    for method, cost in costs.items():
        mean = float(cost.mean())
        values = {"late_cost": mean, "over_known": mean / known}
        # where control gains next to nothing there is no gap to capture
        values["captured"] = (none - mean) / max(none - known, 1e-3)
        if method not in ("myopic, two steps", "known rules", "no control"):
            gap = paired(cost, costs["myopic, two steps"])
            values |= {
                "less_two_steps": gap.mean,
                "less_two_steps_low": gap.low,
                "less_two_steps_high": gap.high,
            }
        for metric, value in values.items():
            row = {**common, "method": method, "metric": metric, "value": value}
            row["unit"] = _UNITS.get(metric, "cost of a step")
            if metric == "late_cost":
                row["sd"] = float(cost.std())
            rows.append(row)
    rows.append(
        {**common, "method": "all", "metric": "seconds", "value": seconds, "unit": "s"}
    )
    return rows


def measure(quick: bool, file: Path = FILE) -> Iterator[list[Row]]:
    """Measure every network of a file, noisy first."""
    for setting, channel in SETTINGS.items():
        print(
            f"late cost over known rules, {setting}: none, {', '.join(LEARNING)}, two"
        )
        with single():
            problems = load_networks(file, mutation=MUTATION, channel=channel)
        for problem in problems[: 1 if quick else None]:
            start = time.process_time()
            with single():  # twice the speed; costs are exact
                costs = measure_network(problem, 4 if quick else RUNS)
            rows = rows_of(problem.name, setting, costs, time.process_time() - start)
            shown = ["no control", *LEARNING, "myopic, two steps"]
            found = {
                r["method"]: r["value"] for r in rows if r["metric"] == "over_known"
            }
            words = " ".join(f"{found[name]:5.2f}" for name in shown)
            print(f"  {problem.name[:40]:40s} {words}", flush=True)
            yield rows


def values(rows: list[Row], setting: str, method: str, metric: str) -> list[float]:
    """One number for each network."""
    keys = {"part": "networks", "setting": setting, "method": method, "metric": metric}
    return [
        row["value"] for row in rows if all(row.get(k) == v for k, v in keys.items())
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Headline comparisons of the default rule."""
    over = values(rows, "noisy", "UCB", "over_known")
    found: dict[str, float] = {}
    if over:
        low = values(rows, "noisy", "UCB", "less_two_steps_low")
        high = values(rows, "noisy", "UCB", "less_two_steps_high")
        found = {
            "regret/known_late/median": float(torch.tensor(over).median()),
            "regret/known_late/largest": max(over),
            "regret/known_late/networks_at_1.25": sum(x <= 1.25 for x in over),
            "networks_not_worse/myopic2": sum(x <= 0 for x in low),
            "networks_better/myopic2": sum(x < 0 for x in high),
            "networks": len(over),
        }
    if captured := values(rows, "seen", "UCB", "captured"):
        found |= {
            "captured/late/median": float(torch.tensor(captured).median()),
            "captured/late/least": min(captured),
            "captured/late/networks_at_0.90": sum(x >= 0.90 for x in captured),
        }
    return found
