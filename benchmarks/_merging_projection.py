"""Part `projection`: a Gauss-Newton matrix projected on a subspace, beside curvlinops.

Ours takes one pass in forward mode for each column and the square of what it gives.
curvlinops multiplies the matrix by all columns at once, which needs a backward pass
too; the columns are then multiplied by the products. Its operator is made beforehand.
Both are checked against each other in every case.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _bench import Row, Timing, interleaved
from _merging_problems import CLASSES, Network, logits
from torch import Tensor

from pyro_geo.geometry.likelihoods import likelihood_named
from pyro_geo.geometry.projection import project_ggn
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge import build_subspace

OURS, PEER = "pyro_geo", "curvlinops"
TASKS, PIXELS, WIDTH, INPUTS = 8, 64, 64, 200
CASES: dict[str, dict[str, Any]] = {
    "span": {"kind": "span"},
    "block": {"kind": "block"},
    "half of matched rank": {"rank_fraction": 0.5},
    "matched rank": {},
}
HEADLINE = "matched rank"


def network(seed: int) -> Network:
    """A network at random weights, in double precision."""
    torch.manual_seed(seed)
    return Network(PIXELS, WIDTH).double()


def columns_of(subspace: Subspace, net: Network) -> list[Tensor]:
    """Columns of a subspace in the peer's format, `(*shape, dim)` for each tensor."""
    unit = torch.eye(subspace.dim, dtype=torch.float64)
    lifted = [subspace.lift(row) for row in unit]
    shown = dict(net.named_parameters())
    return [
        torch.stack([one.get(name, torch.zeros_like(p)) for one in lifted], -1).detach()
        for name, p in shown.items()
    ]


def peer(net: Network, x: Tensor, columns: list[Tensor]) -> Callable[[], Tensor] | None:
    """The projection by products of curvlinops; None where it is not installed."""
    try:
        curvlinops = importlib.import_module("curvlinops")
    except ImportError:
        return None
    y = torch.arange(len(x)) % CLASSES  # the matrix does not depend on labels
    operator = curvlinops.GGNLinearOperator(
        net,
        torch.nn.CrossEntropyLoss(),
        list(net.parameters()),
        [(x, y)],
        check_deterministic=False,
    )
    flat = torch.cat([c.flatten(0, -2) for c in columns])

    def project() -> Tensor:
        products = operator @ columns
        return flat.T @ torch.cat([p.flatten(0, -2) for p in products])

    return project


def measure(quick: bool) -> Iterator[list[Row]]:
    """Time both on subspaces of one network."""
    net = network(0)
    base = {name: p.detach() for name, p in net.named_parameters()}
    models = [
        {
            name: p.detach() + 0.1 * network(k + 1).get_parameter(name).detach()
            for name, p in net.named_parameters()
        }
        for k in range(TASKS)
    ]
    x = torch.randn(
        INPUTS, PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    family = likelihood_named("categorical", 1.0)
    for name in ("span",) if quick else CASES:
        subspace = build_subspace(base, models, **CASES[name])

        def ours(subspace: Subspace = subspace) -> Tensor:
            return project_ggn(logits, base, x, subspace, likelihood=family)

        functions: dict[str, Callable[[], Tensor]] = {OURS: ours}
        error = None
        other = peer(net, x, columns_of(subspace, net))
        case = f"{name}, {subspace.dim} columns"
        if other is not None:
            functions[PEER] = other
            error = float((ours() - other()).abs().max() / ours().abs().max())
            assert error < 1e-12, f"{case}: they differ by {error:.2g}"
        times = interleaved(
            functions, repetitions=2 if quick else 9, seconds=0.01 if quick else 0.3
        )
        yield rows_of(case, times, error)


def rows_of(case: str, times: dict[str, Timing], error: float | None) -> list[Row]:
    """Rows of a case."""
    rows: list[Row] = []
    for method in (OURS, PEER):
        time = times.get(method)
        for metric in ("processor", "wall"):
            value = None
            if time is not None:
                value = 1e3 * (time.cpu if metric == "processor" else time.wall)
            found = {"case": case, "method": method, "metric": f"projection, {metric}"}
            found |= {"value": value, "unit": "ms"}
            if time is None:
                found["note"] = "not installed"
            rows.append(found)
            print(f"{case}: {method}, {metric} {value} ms", flush=True)
    difference = {"case": case, "method": "difference", "metric": "largest, relative"}
    rows.append({**difference, "value": error, "unit": ""})
    return rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Speed over the peer's: processor time at matched rank, and in every case."""
    found: dict[str, float] = {}
    times = {
        (r["case"], r["method"]): r["value"]
        for r in rows
        if r["metric"] == "projection, processor" and r["value"] is not None
    }
    for case, method in times:
        if method != PEER:
            continue
        speed = times[case, PEER] / times[case, OURS]
        name, _, _ = case.partition(",")
        if name == HEADLINE:
            found["metric_speed/curvlinops"] = speed
        found[f"metric_speed/curvlinops/{name.replace(' ', '_')}"] = speed
    return found
