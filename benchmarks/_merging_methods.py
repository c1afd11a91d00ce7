"""Every way of merging the networks of a problem, each with the settings to try.

A published baseline gets the setting of its grid that has the best mean accuracy on
labelled validation images of all tasks, in every repetition anew. Our merges have one
setting, chosen on other seeds than those reported, and see unlabelled images alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from _merging_problems import Params, Problem, logits

from pyro_geo._process import Seconds
from pyro_geo.summaries.merge import (
    baselines,
    build_subspace,
    frechet_merge,
    regression_starts,
)
from pyro_geo.summaries.merge.baselines import crossing, rescaling
from pyro_geo.summaries.merge.statistics import fisher_diagonal, layer_statistics

OURS = "EpiMer, singular + chosen gram, KL"
ALL_SEEN = "EpiMer, singular + gram, KL, nothing held back"
CEILINGS = ("individual", "joint training")
GRAM = "gram"
PRETRAINED = "pretrained"
RIDGE = 1e-3
FACTORS = (1.0, 0.98, 0.95, 0.9, 0.8)  # of off-diagonal moments, for ours to choose
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


class Merge(NamedTuple):
    """One network for all tasks."""

    method: str
    setting: str
    params: Params
    seconds: float  # of the processor, for one setting, statistics included


Rule = Callable[[Problem], Params]


def grids() -> dict[str, list[tuple[str, Rule]]]:
    """Published methods with the settings to choose from."""
    found: dict[str, list[tuple[str, Rule]]] = {
        "average": [("", lambda p: baselines.average(p.base, p.models))],
        "task arithmetic": _each(
            baselines.task_arithmetic, scale=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
        ),
        "TIES": _each(baselines.ties, density=(0.1, 0.2, 0.5), scale=SCALES),
        "DARE": _each(
            partial(baselines.dare, seed=0),
            drop=(0.3, 0.6, 0.9),
            scale=(0.1, 0.15, 0.2, 0.3),
        ),
        "TSV-Merge": _each(baselines.tsv_merge, scale=SCALES),
        "Iso-C": _each(baselines.iso_c, scale=SCALES),
        "Iso-CTS": _each(
            baselines.iso_cts, common_fraction=(0.5, 0.8, 0.9), scale=SCALES
        ),
        "WUDI": _each(
            baselines.wudi, step_size=(1e-5, 1e-4, 1e-3), scale=(0.75, 1.0, 1.25)
        ),
        "LARV + Iso-C": [
            (f"amplitude={a}, scale={s}", _larv(a, s))
            for a in (0.25, 0.5)
            for s in SCALES
        ],
    }
    found["Fisher"] = [
        (f"floor={floor}, scale={scale}", _fisher(floor, scale))
        for floor in (0.0, 1e-6, 1e-4)
        for scale in (0.75, 1.0, 1.5)
    ]
    options = [
        {"off_diagonal": off, "ridge": ridge, "scale": scale}
        for off in (0.9, 1.0)
        for ridge in (1e-3, 1e-2)
        for scale in (1.0, 1.1, 1.2)
    ]
    found["RegMean"] = [(_named(o), _regression("regmean", o)) for o in options]
    found["RegMean++"] = [(_named(o), _crossing(o)) for o in options]
    found[GRAM] = [(_named(o), _regression("gram", o)) for o in options]
    return found


def merges(problem: Problem, quick: bool, names: Sequence[str] = ()) -> Iterator[Merge]:
    """Merge in every way, each baseline at its best setting."""
    yield Merge(PRETRAINED, "", problem.base, 0.0)
    for method, settings in grids().items():
        if names and method not in names:
            continue
        tried = settings[:1] if quick else settings
        best, most = None, -1.0
        for setting, rule in tried:
            before = Seconds.now()
            params = rule(problem)
            seconds = (Seconds.now() - before).cpu
            scores = problem.accuracy(params, "validation").values()
            if (mean := sum(scores) / len(scores)) > most:
                best, most = Merge(method, setting, params, seconds), mean
        assert best is not None
        yield best
    yield from ours(problem, quick)


def ours(problem: Problem, quick: bool) -> Iterator[Merge]:
    """Merge at Fréchet means, from unlabelled images alone."""
    base, models = problem.base, problem.models
    known: dict[str, Any] = {"forwards": logits, "inputs": problem.unlabelled}
    plain: dict[str, dict[str, Any]] = {
        "EpiMer, span, path": {"refine": None},
        "EpiMer, block, path": {"refine": None},
        "EpiMer, singular, point": {"refine": None, "kind": "point"},
        "EpiMer, singular, path": {"refine": None},
        "EpiMer, singular, KL": {},
    }
    for method, options in plain.items():
        if quick and "singular" in method:
            continue
        before = Seconds.now()
        subspace = build_subspace(base, models, method.split(", ")[1])
        merged = frechet_merge(base, models, None, subspace, **known, **options)
        seconds = (Seconds.now() - before).cpu
        yield Merge(method, f"rank {subspace.dim}", merged.state_dict, seconds)
    if not quick:  # what an untuned direction does where nothing is held back
        before = Seconds.now()
        extra = [_regression("gram", {"ridge": RIDGE})(problem)]
        subspace = build_subspace(base, models, extra=extra)
        merged = frechet_merge(
            base, models, None, subspace, **known, starts=extra, held_out=0.0
        )
        seconds = (Seconds.now() - before).cpu
        yield Merge(ALL_SEEN, f"rank {subspace.dim}", merged.state_dict, seconds)
    before = Seconds.now()
    module = problem.module(next(iter(models)))
    factors = FACTORS[:1] if quick else FACTORS
    starts = regression_starts(base, models, module, off_diagonal=factors, ridge=RIDGE)
    merged = frechet_merge(
        base, models, starts=starts, steps=2 if quick else 10, **known
    )
    seconds = (Seconds.now() - before).cpu
    assert merged.choice is not None
    setting = f"{merged.choice.direction}, {merged.choice.steps} steps"
    yield Merge(OURS, setting, merged.state_dict, seconds)


def _each(method: Callable[..., Params], **grid: Sequence[float]) -> list:
    """All combinations of options."""
    combinations: list[dict[str, float]] = [{}]
    for name, values in grid.items():
        combinations = [{**one, name: v} for one in combinations for v in values]

    def rule(options: Mapping[str, Any]) -> Rule:
        return lambda p: method(p.base, p.models, **options)

    return [(_named(options), rule(options)) for options in combinations]


def _named(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in options.items())


def _larv(amplitude: float, scale: float) -> Rule:
    def rule(p: Problem) -> Params:
        options = {"scale": scale}
        return rescaling.larv(
            p.base, p.models, over="iso_c", options=options, amplitude=amplitude
        )

    return rule


def _fisher(floor: float, scale: float) -> Rule:
    def rule(p: Problem) -> Params:
        found = {
            task: fisher_diagonal(logits, p.models[task], x)
            for task, x in p.unlabelled.items()
        }
        return baselines.fisher(
            p.base, p.models, statistics=found, floor=floor, scale=scale
        )

    return rule


def _regression(method: str, options: Mapping[str, Any]) -> Rule:
    def rule(p: Problem) -> Params:
        found = {
            task: layer_statistics(p.module(task), x)
            for task, x in p.unlabelled.items()
        }
        return getattr(baselines, method)(p.base, p.models, statistics=found, **options)

    return rule


def _crossing(options: Mapping[str, Any]) -> Rule:
    def rule(p: Problem) -> Params:
        module = p.module(next(iter(p.models)))
        with torch.no_grad():
            return crossing.regmean_pp(
                p.base, p.models, module=module, inputs=p.unlabelled, **options
            )

    return rule
