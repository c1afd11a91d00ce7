"""Write the checked-in benchmark figures into the pages.

Each page of figures holds a pair of markers. What lies between them is made from
`benchmarks/results/*.json` and never edited by hand, like the page that each benchmark
has in docs/benchmarks. Sentences with figures in them stand in `benchmarks/pages`: edit
them there. `--check` changes nothing and exits with 1 when a page is stale.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
EMPTY = "No figures have been checked in yet."

Result = dict[str, Any]

# Pages whose part between the markers is written around figures: page and template.
WRITTEN = {
    "README.md": "methods.md",
    "docs/explanation/reproduction.md": "reproduction.md",
}
# {{dims: a ratio}}, {{dims: case | method | metric}}, and either with "; percent".
FIELD = re.compile(r"\{\{(\w+): ([^{};]+)(; percent)?\}\}")


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


def figure(result: Result, key: str) -> float:
    """Look up a ratio by its key, or a measurement by case, method and metric."""
    if " | " not in key:
        known = result.get("ratios", {})
        found = [known[key]] if key in known else []
    else:
        names = dict(zip(("case", "method", "metric"), key.split(" | "), strict=True))
        found = [
            row["value"]
            for row in result.get("rows", [])
            if all(row.get(name) == value for name, value in names.items())
        ]
    if len(found) != 1 or not isinstance(found[0], int | float):
        raise ValueError(
            f"found {found} for {key!r} of {result['name']}, expected one number"
        )
    return found[0]


def filled(template: str, results: list[Result]) -> str:
    """Put figures in the fields of a template, and say when they were measured."""
    if not results:
        return EMPTY
    found = {result["name"]: result for result in results}
    dates = set()

    def shown(field: re.Match[str]) -> str:
        name, key, percent = field.groups()
        if name not in found:
            raise ValueError(f"found no results of {name!r}, asked for {key!r}")
        dates.add(found[name]["date"])
        value = figure(found[name], key)
        return f"{number(100 * value)} %" if percent else number(value)

    text = FIELD.sub(shown, template.strip())
    return f"{text}\n\nMeasured from {min(dates)} to {max(dates)}."


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
    templates = root / "benchmarks" / "pages"
    bodies = {"docs/benchmarks.md": page(results)} | {
        name: filled((templates / template).read_text(), results)
        for name, template in WRITTEN.items()
    }
    pages = {
        name: replace((root / name).read_text(), body) for name, body in bodies.items()
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
