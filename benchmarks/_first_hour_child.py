"""The README's example in a new process: `_first_hour_child.py README FOLDER`.

Prints the processor seconds of each of its parts, as JSON.
"""

import ast
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

# What a statement of the example does, by what its source says.
PARTS = (
    ("import pyro_geo", r"(from|import) pyro_geo"),
    ("import torch and Pyro", r"(from|import) (torch|pyro)\b"),
    ("run", r".*\bMCMC\("),
    ("summary", r".*\.summary\("),
    ("ArviZ data", r".*\.to_arviz\("),
    ("report", r".*\.report\("),
)


def example(readme: Path) -> str:
    """Return the code of the README's example."""
    (code, *_) = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.M | re.S)
    return code


def spent() -> float:
    """Processor seconds of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def part_of(source: str) -> str:
    """Name the part of the example that a statement belongs to."""
    found = (name for name, start in PARTS if re.match(start, source))
    return next(found, "model and data")


def main() -> None:
    """Run the example statement by statement, and print what each part took."""
    readme, folder = sys.argv[1:]
    code = example(Path(readme))
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "example"}
    costs: dict[str, float] = {"start Python": spent()}
    wall = time.perf_counter()
    for node in ast.parse(code).body:
        source = ast.unparse(node)
        before = spent()
        exec(compile(ast.Module([node], []), readme, "exec"), names)
        name = part_of(source)
        costs[name] = costs.get(name, 0.0) + spent() - before
    costs["all"] = spent()
    run = {phase: seconds.cpu for phase, seconds in names["fit"].timings.items()}
    found = {"costs": costs, "run": run, "wall": time.perf_counter() - wall}
    print("\n" + json.dumps(found | {"rung": names["fit"].rung}))


if __name__ == "__main__":
    main()
