"""Time of a step of SPD beside AdamW and beside the published loop."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _bench import Row, interleaved
from torch import Tensor

from pyro_geo.optim import SPD
from pyro_geo.testing.decay import PublishedSPD

CASES = {
    "200 of 64x64": [(64, 64)] * 200,
    "24 of 512x512, 24 of 512": [(512, 512), (512,)] * 24,
    "2 of 2048x2048": [(2048, 2048)] * 2,
    "1000 of 8": [(8,)] * 1000,
    "1 of 64": [(64,)],
}
LARGE = ("24 of 512x512, 24 of 512", "2 of 2048x2048")
GRADIENTS = 4  # random ones in turn: half of them point against the displacement


def make(method: str, params: list[Tensor]) -> torch.optim.Optimizer:
    """Make an optimiser; anchors are where the parameters are."""
    if method == "published loop":
        return PublishedSPD(params, [p.detach().clone() for p in params])
    if method.startswith("SPD"):
        way: dict[str, Any] = {"track": False} if "track" in method else {}
        return SPD(params, **way)
    way = {name: name in method for name in ("fused", "foreach")}
    return torch.optim.AdamW(params, **way)


METHODS = ("SPD", "SPD, track=False", "AdamW, fused", "AdamW, foreach", "AdamW, loop")
METHODS += ("published loop",)


def stepper(
    method: str, shapes: Sequence[tuple[int, ...]]
) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """Make parameters of their own, and a function that takes a step."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    optimizer = make(method, list(params))
    sets = [
        [torch.randn(s, generator=generator) for s in shapes] for _ in range(GRADIENTS)
    ]
    count = 0

    def step() -> None:
        nonlocal count
        for p, g in zip(params, sets[count % GRADIENTS], strict=True):
            p.grad = g
        count += 1
        optimizer.step()

    return step, optimizer


def steps(quick: bool) -> Iterator[list[Row]]:
    """Time steps of all methods, in turn."""
    torch.set_num_threads(1)
    for case in ("1 of 64",) if quick else CASES:
        made = {method: stepper(method, CASES[case]) for method in METHODS}
        for step, _ in made.values():
            for _ in range(GRADIENTS):
                step()
        functions = {method: step for method, (step, _) in made.items()}
        times = interleaved(
            functions, repetitions=2 if quick else 11, seconds=0.01 if quick else 0.1
        )
        rows: list[Row] = []
        for method, t in times.items():
            for metric, value in (("processor", t.cpu), ("wall", t.wall)):
                row = {"case": case, "method": method, "metric": f"step, {metric}"}
                rows.append({**row, "value": 1e3 * value, "unit": "ms"})
                if metric == "processor":
                    rows[-1]["sd"] = 1e3 * t.sd
        spd = made["SPD"][1]
        assert isinstance(spd, SPD)
        found = list(spd.deviation().values())
        rate = sum(row["decay_rate"] for row in found) / len(found)
        row = {"case": case, "method": "SPD", "metric": "share of steps that decayed"}
        yield [*rows, {**row, "value": rate, "unit": ""}]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Compare the time of a step: the worst case of each peer, then every case."""
    times = {
        (row["case"], row["method"]): row["value"]
        for row in rows
        if row["metric"] == "step, processor"
    }
    cases = list(dict.fromkeys(case for case, _ in times))
    if not cases:
        return {}
    found: dict[str, float] = {}
    peers = {"fused_adamw": "AdamW, fused", "released_loop": "published loop"}
    for key, peer in peers.items():
        each = {case: times[case, "SPD"] / times[case, peer] for case in cases}
        # beside a fused optimiser large tensors are what is asked for, and beside a
        # loop over tensors more than one; every case stands below by itself
        many = LARGE if key == "fused_adamw" else [c for c in cases if c != "1 of 64"]
        chosen = [case for case in cases if case in many] or cases
        found[f"step_time/{key}"] = max(each[case] for case in chosen)
        found |= {
            f"step_time/{key}/{case.replace(' ', '_')}": each[case] for case in cases
        }
    return found
