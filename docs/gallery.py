"""The gallery: each model run by one program, with its picture and its output.

`docs/conf.py` calls :func:`build`. Runs are kept under a digest of the sources, so that
a second build of the same sources runs nothing.
"""

import ast
import base64
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from joblib import Parallel, delayed

__all__ = ["RUNS", "build", "digest", "read_entry", "run_once"]

ROOT = Path(__file__).resolve().parents[1]

# One command for each model, whose path stands for {}; each program has at least one.
RUNS = {
    "binary_task": "hgf.py {}",
    "deceived_flight": "tracking.py {}",
    "diabetes_network": "dims.py {} --samples 8 --chains 2",
    "digit_tasks": "merge_models.py {}",
    "digits_classifier": "demo.py models/eight_schools.py {}",
    "eight_schools": "hmc.py {} --target-accept 0.95",
    "eight_schools_centred": "hmc.py {} --target-accept 0.95",
    "exchange_rate": "hgf.py {}",
    "forgotten_digit": "unlearning.py {}",
    "gap_network": "dims.py {} --samples 8 --chains 2",
    "gaussian_mixture": "modes.py {}",
    "gene_network": "control.py {}",
    "grouped_outliers": "hmc.py {}",
    "hiv_trial": "merging.py {}",
    "lidar_target": "tracking.py {}",
    "linear_quadratic_plant": "control.py {}",
    "logistic_breast_cancer": "hmc.py {}",
    "matrix_completion": "dims.py {} --chains 4",
    "melanoma_network": "hmc.py {} --samples 100 --chains 16",
    "order_flow": "tracking.py {}",
    "overparameterised_regression": "dims.py {} --chains 4",
    "pendulum": "plan.py {}",
    "qubit_tomography": "hmc.py {}",
    "recurrence_times": "unlearning.py {}",
    "relu_classifier": "gibbs.py {}",
    "relu_regression": "gibbs.py {}",
    "reversal_task": "hgf.py {} --samples 100 --target-accept 0.95",
    "saas_gp": "saas.py {} --samples 100 --chains 8",
    "shifted_digits": "finetune.py {}",
    "sign_factor": "modes.py {}",
    "stochastic_volatility": "hmc.py {} --samples 100 --chains 16",
    "three_tones": "modes.py {}",
    "tumour_trial": "merging.py {}",
    "two_routes": "plan.py {}",
    "unknown_sign_plant": "control.py {}",
    "volatility_cohort": "hgf.py {} --samples 100 --target-accept 0.95",
}


class Entry(NamedTuple):
    """A model and what its run left.

    Attributes:
        name: of the model's file, without its ending.
        program: of `inference/`, without its ending.
        command: as a reader types it.
        output: what it printed.
    """

    name: str
    program: str
    command: str
    output: str


def digest() -> str:
    """Return a digest of all sources that a run of the gallery can depend on."""
    total = hashlib.sha256()
    for folder in ("pyro_geo", "models", "inference"):
        for path in sorted((ROOT / folder).rglob("*")):
            # compiled code, Python's and numba's, is no source: runs leave it there
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(str(path.relative_to(ROOT)).encode())
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def build(pages: Path, kept: Path, *, run: bool) -> None:
    """Write the pages of the gallery.

    Args:
        pages: folder of the pages, made anew.
        kept: folder of the runs of these sources.
        run: whether to run what has not been run; without it such entries have neither
            picture nor output.
    """
    # a command that has changed is run again, and the others are not
    marks = {name: hashlib.sha256(RUNS[name].encode()).hexdigest() for name in RUNS}
    folders = {name: kept / f"{name}-{mark[:8]}" for name, mark in marks.items()}
    if run:
        Parallel(n_jobs=2)(delayed(run_once)(*one) for one in folders.items())
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    entries = [read_entry(name, folder, pages) for name, folder in folders.items()]
    for entry in entries:
        (pages / f"{entry.name}.md").write_text(_model_page(entry))
    programs = sorted((ROOT / "inference").glob("*.py"))
    for path in programs:
        (pages / f"program_{path.stem}.md").write_text(_program_page(path, entries))
    (pages / "index.md").write_text(_index(entries, programs))


def _command(name: str, out: str) -> list[str]:
    """Return the words of a run's command after `python`."""
    given = RUNS[name].format(f"models/{name}.py")
    return [*f"inference/{given} --seed 1 --out".split(), out]


def run_once(name: str, folder: Path) -> None:
    """Run a model's command, unless that has been done, and keep what it leaves.

    Args:
        name: of the model.
        folder: of its report, its picture and its output.

    Raises:
        RuntimeError: the command fails, or its report has no picture.
    """
    if (folder / "output.txt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *_command(name, str(folder))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: the command failed\n{done.stderr}")
    warned = re.findall(r"^.*Warning: .*$", done.stderr, re.M)
    text = "\n".join([*dict.fromkeys(_shorter(line) for line in warned), done.stdout])
    (folder / "picture.png").write_bytes(_picture(folder / "report.html"))
    # spaces at the beginning belong to the header of a table
    (folder / "output.txt").write_text(text.replace(f"{folder}", "run").strip("\n"))


def _shorter(warning: str) -> str:
    """Leave the place in the sources out of a warning, which a reader has not got."""
    return re.sub(r"^.*?:\d+: ", "", warning)


def _picture(report: Path) -> bytes:
    """Return the first picture of a report."""
    found = re.search(r'src="data:image/png;base64,([^"]+)"', report.read_text())
    if found is None:
        raise RuntimeError(f"{report} has no picture")
    return base64.b64decode(found[1])


def read_entry(name: str, folder: Path, pages: Path) -> Entry:
    """Bring what a run left to the pages.

    Args:
        name: of the model.
        folder: of the run; one without output has not been run.
        pages: folder of the pages.

    Returns:
        The entry.
    """
    program = RUNS[name].split(".py")[0]
    output = folder / "output.txt"
    if output.exists():
        shutil.copy(folder / "picture.png", pages / f"{name}.png")
        shutil.copy(folder / "report.html", pages / f"{name}_report.html")
    text = output.read_text() if output.exists() else ""
    command = shlex.join(["python", *_command(name, "run/")])
    return Entry(name, program, command, text)


def _docstring(path: Path) -> tuple[str, str]:
    """Return the first line and the rest of a file's docstring."""
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    first, _, rest = about.partition("\n")
    # indented lines are commands
    rest = re.sub(
        r"(?:^    .*\n?)+",
        lambda lines: f"```console\n{textwrap.dedent(lines[0]).strip()}\n```\n",
        rest,
        flags=re.M,
    )
    return first, rest.strip()


def _source(path: Path) -> str:
    return f"## The file `{path.relative_to(ROOT)}`\n\n```python\n{path.read_text()}```"


def _model_page(entry: Entry) -> str:
    path = ROOT / "models" / f"{entry.name}.py"
    first, rest = _docstring(path)
    parts = [f"# {first.rstrip('.')}", rest]
    parts.append(f"```console\n$ {entry.command}\n```")
    if entry.output:
        parts.append(
            f"![The first picture of the report]({entry.name}.png)\n\n"
            f"It is made by [`inference/{entry.program}.py`]"
            f"(program_{entry.program}.md) and is the first of "
            f"{{download}}`its report <{entry.name}_report.html>`. It prints:"
        )
        parts.append(f"```text\n{entry.output}\n```")
    return "\n\n".join([*parts, _source(path)]) + "\n"


def _program_page(path: Path, entries: list[Entry]) -> str:
    first, rest = _docstring(path)
    runs = [e for e in entries if e.program == path.stem]
    parts = [f"# {first.rstrip('.')}", rest, "## Runs", _grid(runs), _source(path)]
    return "\n\n".join(parts) + "\n"


def _grid(entries: list[Entry]) -> str:
    """Make cards with the pictures of some entries."""
    cards = []
    for entry in entries:
        first, _ = _docstring(ROOT / "models" / f"{entry.name}.py")
        image = f":img-top: {entry.name}.png\n" if entry.output else ""
        cards.append(
            f":::{{grid-item-card}} {entry.name.replace('_', ' ')}\n{image}"
            f":link: {entry.name}\n:link-type: doc\n{first}\n:::"
        )
    return "::::{grid} 1 2 3 3\n:gutter: 2\n\n" + "\n\n".join(cards) + "\n\n::::"


def _index(entries: list[Entry], programs: list[Path]) -> str:
    rows = []
    for path in programs:
        first, _ = _docstring(path)
        rows.append(f"| [`{path.name}`](program_{path.stem}.md) | {first} |")
    hidden = [e.name for e in entries] + [f"program_{path.stem}" for path in programs]
    return "\n".join(
        [
            "# Gallery",
            "",
            "A model is one file of `models/`, a program one file of `inference/`. The",
            "pictures and outputs were made by the commands beside them, when this",
            "site was built. Warnings are shown with the output: some models are here",
            "because they are hard.",
            "",
            "## Programs",
            "",
            "| program | what it does |",
            "|---|---|",
            *rows,
            "",
            "## Models",
            "",
            _grid(entries),
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *hidden,
            "```",
            "",
        ]
    )
