"""List methods, models and programs, or check the machine: `python -m pyro_geo`."""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyro_geo._methods import METHODS

__all__ = ["main"]

_INDENT = " " * 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pyro_geo",
        description="List methods, models and programs, or say what this machine can.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("list", "check"),
        default="list",
        help="list if none",
    )
    if parser.parse_args(arguments).what == "check":
        from pyro_geo._machine import check_machine

        for line in check_machine():
            print(line, flush=True)
    else:
        print("\n".join(_overview()))
    return 0


def _overview() -> Iterator[str]:
    yield "Methods"
    for method in METHODS:
        yield f"  {method.answers}"
        names = ", ".join(f"pyro_geo.{name}" for name in method.names)
        text = f"{method.name}: {names}"
        yield textwrap.fill(
            text, 88, initial_indent=_INDENT, subsequent_indent=_INDENT * 2
        )
    root = Path(__file__).resolve().parents[1]
    folders = {"Models": root / "models", "Programs": root / "inference"}
    if not all(folder.is_dir() for folder in folders.values()):
        yield "\nModels and programs are in the sources, in models/ and inference/."
        return
    for title, folder in folders.items():
        yield f"\n{title}, in {folder.name}/"
        for path in sorted(folder.glob("*.py")):
            yield f"  {path.name:32} {_first_line(path)}"
    yield "\nTry: python inference/hmc.py models/eight_schools.py --out run/"


def _first_line(path: Path) -> str:
    documented = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (documented or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
