"""Our sampler beside NumPyro's on the same hierarchical model, in one process."""

from collections.abc import Iterator

import torch
from _bench import Row, interleaved
from _hgf_cohorts import Cohort, model_of, starts
from _hgf_fits import LARGE, SMALL, large_cohort, small_cohort
from _hgf_sampling import CHAINS, OURS, gate_rows, sample, spent_rows
from _hmc_common import NUMPYRO, R_HAT, Run, installed, missing, quality, row

from pyro_geo.density import Target

__all__ = ["END", "GRADIENT", "METRICS", "measure"]

END, GRADIENT = "end to end", "gradient of all chains"
METRICS = ("diagonal", "dense")  # of NumPyro, each once: a run takes minutes
_REPEATS = 3  # of ours
_SAMPLES = 500
_WARMUP = {OURS: 300, NUMPYRO: 300}


def measure(quick: bool) -> Iterator[list[Row]]:
    """Fit the small cohort by both in turn; time the gradient of the large one."""
    cohort = small_cohort(quick)
    count, samples = (1, 60) if quick else (_REPEATS, _SAMPLES)
    warmup = dict.fromkeys(_WARMUP, 60) if quick else _WARMUP
    if not installed("numpyro"):
        fits = [sample(cohort, samples, warmup[OURS], seed) for seed in range(count)]
        yield spent_rows(SMALL, fits)
        yield [missing(SMALL, NUMPYRO, END)]
        return
    import _hgf_numpyro

    begin = {k: v.numpy() for k, v in starts(cohort, CHAINS, 0).items()}
    fits, runs = [], []
    for seed in range(max(count, len(METRICS))):
        fits.append(sample(cohort, samples, warmup[OURS], seed))
        if seed < len(METRICS):
            settings = samples, warmup[NUMPYRO], 100
            dense = METRICS[seed] == "dense"
            run = _hgf_numpyro.run(cohort, begin, *settings, dense=dense)
            yield numpyro_rows(run, samples, warmup[NUMPYRO])
            runs.append(run)
    # the faster one of those whose chains agree
    best = min(runs, key=lambda run: (quality(run.draws).r_hat > R_HAT, *_spent(run)))
    yield spent_rows(SMALL, fits)
    yield gate_rows(SMALL, fits[0], best.draws, NUMPYRO)
    yield gradient_rows(SMALL, cohort)
    yield gradient_rows(LARGE, large_cohort(quick))


def numpyro_rows(run: Run, samples: int, warmup: int) -> list[Row]:
    """Say what a run of NumPyro has cost, and whether its chains agree."""
    cpu, wall = _spent(run)
    found = quality(run.draws)
    name = f"{NUMPYRO}, {run.about}"
    about = {"draws": f"{CHAINS} x {samples}", "warmup": warmup, "r_hat": found.r_hat}
    return [
        row(SMALL, name, END, cpu, "s", wall=wall, sampler=NUMPYRO, **about),
        row(SMALL, name, "largest R-hat", found.r_hat, ""),
        row(SMALL, name, "smallest effective size", found.min_ess, ""),
        row(SMALL, name, "divergences", float(run.divergences), ""),
    ]


def _spent(run: Run) -> tuple[float, float]:
    """Processor and wall seconds of all phases."""
    cpu, wall = zip(*run.seconds.values(), strict=True)
    return sum(cpu), sum(wall)


def gradient_rows(case: str, cohort: Cohort) -> list[Row]:
    """Time one gradient for all chains, on either side."""
    import _hgf_numpyro

    begin = starts(cohort, CHAINS, 0)
    target = Target.from_model(
        model_of(cohort), cohort.inputs, cohort.responses, dtype=torch.float64
    ).with_rung("traced")
    q = target.unconstrain(begin)
    gradient = _hgf_numpyro.gradient(cohort, {k: v.numpy() for k, v in begin.items()})
    found = interleaved({OURS: lambda: target.value_and_grad(q), NUMPYRO: gradient})
    return [
        row(case, name, GRADIENT, spent.cpu, "s", wall=spent.wall, sd=spent.sd)
        for name, spent in found.items()
    ]
