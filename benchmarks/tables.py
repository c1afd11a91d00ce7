"""Write the checked-in benchmark figures into README.md and docs/benchmarks.

README.md and docs/benchmarks.md hold a pair of markers; what lies between them is made
from `benchmarks/results/*.json` and never edited by hand, like the page that each
benchmark has in docs/benchmarks. `--check` changes nothing and exits with 1 when a page
is stale.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
EMPTY = "No figures have been checked in yet."

Result = dict[str, Any]

# What the README shows: result, ratio, the same in words, and which way is better.
HEADLINES = (
    (
        "hmc",
        "min_ess_per_cpu_s/pyro_nuts@64/median",
        "Effective draws per processor second, 64 chains of `HMC` over Pyro's NUTS; "
        "median of 13 posteriors of posteriordb",
        "larger",
    ),
    (
        "hmc",
        "min_ess_per_cpu_s/numpyro_nuts@64/median",
        "The same over NumPyro's NUTS with 64 vectorised chains",
        "larger",
    ),
    (
        "hmc",
        "end_to_end/numpyro_nuts/eight_schools",
        "Speed of a whole program on eight schools, imports and compiling included, "
        "over NumPyro at its defaults",
        "larger",
    ),
    (
        "dims",
        "draws_per_cpu_s/dopri5_lockstep@256",
        "Minima per processor second, `DIMS` over an adaptive solver that steps all "
        "trajectories together",
        "larger",
    ),
    (
        "gibbs",
        "certificate/pbb/digits",
        "Certified error on digits over that of PAC-Bayes with backprop",
        "smaller",
    ),
    (
        "tracking",
        "rmse/stuck/best",
        "Error of `BoundedTracker` over that of the best other filter, where receivers "
        "of real aircraft repeat old reports",
        "smaller",
    ),
    (
        "tracking",
        "rmse/lidar_mixed/oracle",
        "Its error under mixed LiDAR faults over that of an IMM from which every bad "
        "report was removed by hand",
        "smaller",
    ),
    (
        "hgf_speed",
        "value_and_grad/jax_scan@64",
        "Speed of a hierarchical Gaussian filter of 64 series with its gradient, over "
        "a scan in JAX",
        "larger",
    ),
    (
        "hgf_cohort",
        "cohort_end_to_end/numpyro_scan",
        "Posterior of a cohort of 20 people from start to end, over NumPyro's NUTS on "
        "that scan; processor time",
        "larger",
    ),
    (
        "control",
        "regret/known_late/median",
        "Late cost of control of sixteen gene networks with four unknown rules, over "
        "that with known rules",
        "smaller",
    ),
    (
        "decent_cem",
        "modes_found/all",
        "Posteriors, of eleven with several modes, of which `find_modes` lists every "
        "mode above 3 % with at least 19 of 20 seeds",
        "larger",
    ),
    (
        "decent_cem",
        "cpu/evotorch@64x10",
        "Speed of `DecentCEM` on 64 problems with 10 instances, over evotorch's "
        "batched CEM",
        "larger",
    ),
    (
        "merging",
        "kl_to_full/consensus",
        "Divergence of combined posteriors from that of all data, over that of "
        "NumPyro's `consensus` of draws with the whole prior, two shards",
        "smaller",
    ),
    (
        "merging",
        "accuracy_over_best_baseline/digits/worst",
        "Points of accuracy by which `frechet_merge` beats the best of the published "
        "merges on the worst of eight tasks",
        "larger",
    ),
    (
        "unlearning",
        "delete_draws/refit_time",
        "Time to delete one in a hundred of 10,000 rows from a posterior, over a refit",
        "smaller",
    ),
    (
        "durable",
        "store_overhead/logistic",
        "Time for storing every block, over the time for sampling",
        "smaller",
    ),
)


def load(folder: Path) -> list[Result]:
    """Read every result, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def number(value: Any) -> str:
    """Show three significant digits, or the reason why there is no number."""
    if value is None:
        return "not installed"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head: list[str], right: int, rows: list[list[str]]) -> str:
    """Lay out a Markdown table whose columns from `right` on are right-aligned."""
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    cells = [[cell.replace("|", r"\|") for cell in row] for row in [head, rule, *rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def ratios(results: list[Result]) -> str:
    """Lay out the headline comparisons of all benchmarks in one table."""
    rows = [
        [result["name"], f"`{key}`", number(value)]
        for result in results
        for key, value in result.get("ratios", {}).items()
    ]
    return table(["benchmark", "comparison", "ours over theirs"], 2, rows)


def origin(result: Result) -> str:
    """Say where, when and with what a result was measured."""
    versions = ", ".join(f"{k} {v}" for k, v in result.get("versions", {}).items())
    machine = f"{result['processor']}, {result['cores']} cores"
    if "accelerator" in result:
        machine += f", {result['accelerator']}"
    return f"`{result['command']}`, {result['date']}, {machine}; {versions}."


def measurement(row: dict[str, Any]) -> list[str]:
    """Turn one measurement into the cells of its table row."""
    value = row.get("note") if row.get("value") is None else row["value"]
    shown = number(value)
    if row.get("sd") is not None:
        shown += f" ± {number(row['sd'])}"
    names = [str(row.get(key, "")) for key in ("case", "method", "metric")]
    return [*names, shown, str(row.get("unit", "")), str(row.get("seeds", ""))]


def detail(result: Result) -> str:
    """Write the page of one benchmark: its ratios, then all that was measured."""
    head = ["case", "method", "metric", "value", "unit", "seeds"]
    rows = [measurement(row) for row in result.get("rows", [])]
    parts = [
        f"# {result['name']}",
        origin(result),
        ratios([result]),
        table(head, 3, rows),
    ]
    return "\n\n".join(parts) + "\n"


def readme(results: list[Result]) -> str:
    """Fill the README: a few comparisons in words."""
    found = {result["name"]: result.get("ratios", {}) for result in results}
    rows = [
        [words, number(found[name][key]), better]
        for name, key, words, better in HEADLINES
        if key in found.get(name, {})
    ]
    if not rows:
        return EMPTY
    lines = table(["what is compared", "ratio", "better is"], 1, rows)
    used = {name for name, *_ in HEADLINES}
    dates = sorted({r["date"] for r in results if r["name"] in used})
    return f"{lines}\n\nMeasured from {dates[0]} to {dates[-1]}."


def page(results: list[Result]) -> str:
    """Fill the page of all benchmarks: the ratios, and where to read on."""
    if not results:
        return EMPTY
    names = "\n".join(f"benchmarks/{result['name']}" for result in results)
    tree = f"```{{toctree}}\n:maxdepth: 1\n\n{names}\n```"
    return "\n\n".join([tree, "## Ratios", ratios(results)])


def replace(text: str, body: str) -> str:
    """Put `body` between the markers of a page."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"found no pair of markers, expected {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{body}\n\n{end}{after}"


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages, or check that they are fresh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if stale")
    options = parser.parse_args(argv)
    results = load(root / "benchmarks" / "results")
    filled = {"README.md": readme(results), "docs/benchmarks.md": page(results)}
    pages = {
        name: replace((root / name).read_text(), body) for name, body in filled.items()
    }
    folder = root / "docs" / "benchmarks"
    for result in results:
        pages[f"docs/benchmarks/{result['name']}.md"] = detail(result)
    gone = [x for x in folder.glob("*.md") if str(x.relative_to(root)) not in pages]
    stale = [str(path.relative_to(root)) for path in gone]
    for name, new in pages.items():
        path = root / name
        if path.exists() and path.read_text() == new:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(new)
    if not options.check:
        for path in gone:
            path.unlink()
    verb = "stale" if options.check else "written"
    print(f"{verb}: {', '.join(stale) or 'none'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
