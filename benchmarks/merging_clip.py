"""Merge fine-tuned CLIP vision towers from local checkpoints.

    python benchmarks/merging_clip.py --base clip-vit-base-patch32 \
        --task sun397=clip-vit-base-patch32_sun397 ... --heads heads.safetensors \
        --images data --method epimer,average,iso_c --folder merged --out clip.json

Checkpoints are files or folders in the names of Hugging Face: a `CLIPModel` as the
base, and towers as FusionBench publishes them for the tasks. The heads are a file with
the embedded class names `(classes, width)` of each task. Images of task NAME are
`data/NAME`, with a folder for each class or without classes, or `data/NAME.npz`. Some
of them are set aside without their labels to measure with; the others are for the
accuracies. Metrics that are already in the folder are not measured again.

Memory is that of the checkpoints in single precision, of the subspace, of the images
set aside and of the derivatives of one batch; moments of layers are read from files,
layer by layer. `--quick` merges a tiny random CLIP.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from _bench import Row, write
from _merging_clip import Base, classifier, read_base, read_heads, read_task
from _merging_clip_images import Images
from _merging_clip_tiny import write_tiny
from torch import Tensor

from pyro_geo.summaries.merge import (
    TaskMetric,
    baselines,
    build_subspace,
    forecast,
    frechet_merge,
    measure,
)
from pyro_geo.summaries.merge.checkpoints import open_checkpoint, write_checkpoint
from pyro_geo.summaries.merge.statistics import layer_statistics

WITH_STATISTICS = ("regmean", "gram")
# for Fisher merging every class of every image needs a gradient of the whole tower
TOO_LARGE = ("fisher",)
METHODS = ("epimer", *(n for n in baselines.__all__ if n not in TOO_LARGE))
PACKAGES = ("torch", "safetensors", "numpy")
COLUMNS = ("accuracy", "task_accuracy", "kl", "predicted_kl", "predicted_accuracy_loss")

State = dict[str, Tensor]


class Problem:
    """The towers with their images.

    Args:
        args: of the command line.

    Attributes:
        base: the pretrained network.
        models: task to its tensors.
        forwards: task to its function of parameters and images.
        inputs: task to images without labels.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.base: Base = read_base(args.base)
        self.base.tower.to(args.device)
        self.state = self._placed(self.base.state)
        self.models = {
            task: self._placed(read_task(path, self.base))
            for task, path in args.task.items()
        }
        heads = read_heads(args.heads, list(self.models), self.base.tower.shape[6])
        self.forwards = {t: classifier(self.base, h) for t, h in heads.items()}
        self.images = {task: self._images(task) for task in self.models}
        self.inputs, self.rest = {}, {}
        for task, images in self.images.items():
            first, self.rest[task] = images.split(args.calibration, args.seed)
            self.inputs[task] = images.read(first).to(args.device)
        self._own: dict[str, Tensor] = {}
        self._statistics: dict[str, FiledStatistics] = {}

    def _placed(self, state: State) -> State:
        return {name: x.to(self.args.device) for name, x in state.items()}

    def _images(self, task: str) -> Images:
        place = Path(self.args.images) / task
        path = place if place.is_dir() else place.with_name(f"{task}.npz")
        return Images(path, self.base.tower.shape.image)

    def statistics(self) -> dict[str, FiledStatistics]:
        """Moments of the inputs of the layers, measured once for each task."""
        args = self.args
        for task, model in self.models.items():
            if task in self._statistics:
                continue
            found = layer_statistics(
                self.base.tower,
                self.inputs[task],
                params=model,
                layers=is_shared,
                batch_size=args.batch_size,
            )
            place = args.folder / f"moments_{task}.safetensors"
            found.save(place)  # a gigabyte for each task of ViT-B/32
            self._statistics[task] = FiledStatistics(place)
        return self._statistics

    @torch.no_grad()
    def outputs(self, task: str, state: State) -> Tensor:
        """Logits of the images that were not set aside, `(n, classes)`."""
        forward, size = self.forwards[task], self.args.batch_size
        batches = self.images[task].batches(self.rest[task], size)
        return torch.cat([forward(state, x.to(self.args.device)) for x, _ in batches])

    def ahead(self, task: str, state: State) -> dict[str, float]:
        """Forecast from the images without labels, before any accuracy is known.

        Args:
            task: its name.
            state: of the merged tower.

        Returns:
            Numbers by name.
        """
        found = forecast(  # of one task: it computes in double precision
            {task: self.models[task]},
            state,
            forwards={task: self.forwards[task]},
            inputs={task: self.inputs[task]},
            how="direct",
            shared=is_shared,
            batch_size=self.args.batch_size,
        )
        names = ("predicted_kl", "predicted_accuracy_loss")
        return {name: float(found[name].item()) for name in names}

    def outcome(self, task: str, state: State) -> dict[str, float]:
        """Divergence from the task's own tower, and accuracies where there are labels.

        Args:
            task: its name.
            state: of the merged tower.

        Returns:
            Numbers by name.
        """
        if task not in self._own:
            self._own[task] = self.outputs(task, self.models[task])
        own, new = self._own[task], self.outputs(task, state)
        logs, there = own.log_softmax(-1), new.log_softmax(-1)
        found = {"kl": float((logs.exp() * (logs - there)).sum(-1).double().mean())}
        labels = self.images[task].labels
        if labels is not None:
            y = labels[self.rest[task]].to(new.device)
            for name, x in (("accuracy", new), ("task_accuracy", own)):
                found[name] = float((x.argmax(-1) == y).double().mean())
        return found


class FiledStatistics(Mapping[str, dict[str, Tensor]]):
    """Statistics of layers in a file, of which one layer is in memory at a time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_checkpoint(path)
        self._layers: dict[str, list[str]] = {}
        for name in self._file:
            self._layers.setdefault(name.rpartition(".")[0], []).append(name)

    def __getitem__(self, layer: str) -> dict[str, Tensor]:
        """Tensors of a layer."""
        names = self._layers[layer]
        return {name.rpartition(".")[2]: self._file[name] for name in names}

    def __iter__(self) -> Iterator[str]:
        """Names of the layers."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Count the layers."""
        return len(self._layers)


# -- methods --------------------------------------------------------------------------


def epimer(problem: Problem) -> State:
    """Measure once, merge in closed form, and refine by the divergence."""
    args, base = problem.args, problem.state
    extra = [baseline(problem, name) for name in args.directions]
    subspace = build_subspace(
        base,
        problem.models,
        args.subspace,
        args.rank_fraction,
        extra,
        shared=is_shared,
        dtype=args.dtype,
    )
    print(f"  {subspace!r}", flush=True)
    metrics = {}
    for task in problem.models:
        place = args.folder / f"metric_{task}_{args.calibration}_{args.seed}.pt"
        if place.exists():
            metrics[task] = TaskMetric.load(place)
            continue
        metrics[task] = measure(
            problem.forwards[task],
            problem.models[task],
            problem.inputs[task],
            subspace,
            chunk_size=args.chunk_size,
            batch_size=args.batch_size,
        )
        metrics[task].save(place)
        print(f"  measured {task}: trace {metrics[task].trace:.3g}", flush=True)
    result = frechet_merge(
        base,
        problem.models,
        metrics,
        subspace,
        forwards=problem.forwards,
        inputs=problem.inputs,
        refine="kl" if args.steps else None,
        steps=max(args.steps, 1),
        starts=extra if args.steps else (),
        held_out=0.0,  # all inputs have made the directions and the metrics
        shared=is_shared,
        chunk_size=args.chunk_size,
        batch_size=args.batch_size,
    )
    return result.state_dict


def baseline(problem: Problem, name: str) -> State:
    """Merge by a published method at its defaults."""
    method: Callable[..., State] = getattr(baselines, name)
    options: dict[str, Any] = {"shared": is_shared}
    if name in WITH_STATISTICS:
        options["statistics"] = problem.statistics()
    elif name == "regmean_pp":
        layers = range(problem.base.tower.shape.layers)
        options["blocks"] = [f"vision_model.encoder.layers.{i}" for i in layers]
        options |= {"module": problem.base.tower, "inputs": problem.inputs}
        options["batch_size"] = problem.args.batch_size
    elif name == "dare":
        options["seed"] = problem.args.seed
    return method(problem.state, problem.models, **options)


def is_shared(name: str) -> bool:
    """Whether a tensor is merged: the tower, not the projection to the heads."""
    return name.startswith("vision_model.")


# -- the run --------------------------------------------------------------------------


def run(problem: Problem) -> Iterator[list[Row]]:
    """Merge by each method, forecast, evaluate, and give the rows of each."""
    args = problem.args
    yield list(_rows(problem, "pretrained", problem.state, 0.0))
    for name in args.method:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        merged = epimer(problem) if name == "epimer" else baseline(problem, name)
        seconds = time.perf_counter() - start
        write_checkpoint(args.folder / f"{name}.safetensors", merged)
        yield list(_rows(problem, name, merged, seconds))


def _rows(problem: Problem, method: str, state: State, seconds: float) -> Iterator[Row]:
    tasks = {task: problem.ahead(task, state) for task in problem.models}
    for task, row in tasks.items():
        row |= problem.outcome(task, state)
    for column in COLUMNS:
        found = {task: row[column] for task, row in tasks.items() if column in row}
        if not found:
            continue
        if "accuracy" in column:
            found = {task: 100 * value for task, value in found.items()}
        found |= {"mean": sum(found.values()) / len(found)}
        if column == "accuracy":
            found["worst"] = min(found.values())
            print(f"  {method}: {found['mean']:.2f}, worst {found['worst']:.2f}")
        unit = "%" if "accuracy" in column else "nat"
        for case, value in found.items():
            yield _row(case, method, column, value, unit)
    yield _row("all tasks", method, "time", seconds, "s")


def _row(case: str, method: str, metric: str, value: float, unit: str) -> Row:
    return {
        "case": case,
        "method": method,
        "metric": metric,
        "value": value,
        "unit": unit,
    }


def ratios(rows: list[Row]) -> dict[str, float]:
    """Accuracies of EpiMer in percent, and how far above the best other method."""
    found: dict[str, float] = {}
    for case in ("mean", "worst"):
        each = {
            row["method"]: row["value"]
            for row in rows
            if row["case"] == case and row["metric"] == "accuracy"
        }
        ours = each.pop("epimer", None)
        if ours is not None:
            found[f"accuracy/clip/{case}"] = ours
            name = f"accuracy_over_best_baseline/clip/{case}"
            found[name] = ours - max(each.values())
    return found


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: arguments, those of the process when left out.

    Returns:
        The options, tasks by name.
    """
    doc = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(description=doc)
    add = parser.add_argument
    add("--base", help="checkpoint of the pretrained CLIPModel")
    add("--task", action="append", default=[], metavar="NAME=PATH")
    add("--heads", help="file with embeddings of the class names of each task")
    add("--images", help="folder with NAME or NAME.npz for each task")
    add("--method", default="epimer,average,iso_c", help=",".join(METHODS))
    add("--folder", type=Path, help="to keep metrics and merged towers in")
    add("--out", type=Path, help="file for the results")
    add("--calibration", type=int, default=100, help="images without labels a task")
    add("--subspace", default="singular", choices=("singular", "block", "span"))
    add("--rank-fraction", type=float, default=0.02)
    add("--directions", default="gram", help="baselines whose merges span it too")
    add("--steps", type=int, default=3, help="of the refinement")
    add("--chunk-size", type=int, default=16, help="directions at once")
    add("--batch-size", type=int, default=25, help="images at once")
    add("--dtype", default="float32", choices=("float32", "float64"))
    add("--device", default="cpu")
    add("--seed", type=int, default=0, help="of the images set aside")
    add("--quick", action="store_true", help="a tiny random CLIP")
    args = parser.parse_args(argv)
    args.method, args.directions = (
        [name for name in text.split(",") if name]
        for text in (args.method, args.directions)
    )
    for names, known in ((args.method, METHODS), (args.directions, METHODS[1:])):
        for name in set(names) - set(known):
            parser.error(f"unknown method {name!r}: {', '.join(known)}")
    pairs = [text.partition("=") for text in args.task]
    args.task = {name: path for name, _, path in pairs}
    if not args.quick and args.base is not None:
        missing = [n for n in ("task", "heads", "images") if not getattr(args, n)]
        if missing or not all(path for path in args.task.values()):
            parser.error("--base goes with --task NAME=PATH, --heads and --images")
    args.dtype = getattr(torch, args.dtype)
    return args


def main(argv: list[str] | None = None) -> None:
    """Merge, forecast, evaluate, and write after each method."""
    args = parsed(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            vars(args).update(write_tiny(Path(folder)))
        elif args.base is None:
            print("merging_clip: no checkpoints given (--base), nothing is measured")
            return
        args.folder = args.folder or Path(folder) / "merged"
        args.folder.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        for new in run(Problem(args)):
            rows += new
            write("merging_clip", rows, ratios(rows), args, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
