"""Three cohorts fitted: simulated ones, a recorded one, and one of a thousand."""

import math
import os
from collections.abc import Iterator

import torch
from _bench import Row
from _hgf_cohorts import Cohort, recorded, simulated
from _hgf_sampling import (
    CHAINS,
    OURS,
    Fit,
    covered,
    gate_rows,
    sample,
    spent_rows,
)
from _hmc_common import quality, row

from pyro_geo.evaluation.loo import loo_table

__all__ = [
    "LARGE",
    "RECORDED",
    "SMALL",
    "large",
    "large_cohort",
    "recording",
    "recovery",
    "small_cohort",
]

SMALL = "20 subjects x 300 trials"
LARGE = "1,000 subjects x 320 trials"
RECORDED = "reversal learning, 20 people x 100 trials"
MISSING = "not available: set PYRO_GEO_DATA"
LARGE_SAMPLES, LARGE_WARMUP = 300, 80
_COHORTS = 12  # simulated for the coverage


def small_cohort(quick: bool, seed: int = 0) -> Cohort:
    """Simulate twenty subjects, fewer in a quick run."""
    return simulated(4, 40, seed) if quick else simulated(20, 300, seed)


def large_cohort(quick: bool) -> Cohort:
    """Simulate a thousand subjects, fewer in a quick run."""
    return simulated(30, 40, 0) if quick else simulated(1000, 320, 0)


def recovery(quick: bool) -> Iterator[list[Row]]:
    """Fit simulated cohorts: do intervals contain what they were simulated with?"""
    counts = (60, 60) if quick else (500, 300)
    inside, total, r_hats = 0, 0, []
    cohorts = 1 if quick else _COHORTS
    for seed in range(cohorts):
        cohort = small_cohort(quick, seed)
        fit = sample(cohort, *counts, seed=seed)
        found = covered(fit.draws, cohort.truth)
        for name in ("omega", "log_zeta"):
            inside, total = inside + found[name][0], total + found[name][1]
        r_hats.append(quality(fit.arrays).r_hat)
        if seed == 0:
            yield spent_rows(SMALL, [fit]) + gate_rows(SMALL, fit)
    share, about = inside / total, f"{inside} of {total} in {cohorts} cohorts"
    error = math.sqrt(0.9 * 0.1 / total)
    name = "coverage of 90 % intervals of subjects"
    yield [
        row(SMALL, OURS, name, share, "", sd=error, about=about),
        row(SMALL, OURS, "largest R-hat of all", max(r_hats), "", seeds=cohorts),
    ]


def recording(quick: bool) -> Iterator[list[Row]]:
    """Fit people who learned which of two options was the better one."""
    cohort = recorded()
    if cohort is None:
        print(f"{RECORDED}: {MISSING}", flush=True)
        missing: Row = {"case": RECORDED, "method": OURS, "metric": "largest R-hat"}
        yield [missing | {"value": None, "unit": "", "note": MISSING}]
        return
    if quick:
        few = cohort.inputs[:4, :40], cohort.responses[:4, :40]
        cohort = Cohort(*few, {}, cohort.centred)
    fit = sample(cohort, *((60, 60) if quick else (1000, 300)), seed=0)
    yield spent_rows(RECORDED, [fit]) + gate_rows(RECORDED, fit)
    yield loo_rows(fit)


def loo_rows(fit: Fit) -> list[Row]:
    """Leave out each trial; those that no parameter matters for have no tail."""
    found = loo_table(fit.run.to_arviz()).iloc[0]
    trials = f"{found['data']:.0f} trials"
    return [
        row(RECORDED, OURS, "LOO by trial", float(found["elpd"]), "nat", about=trials),
        row(RECORDED, OURS, "standard error of LOO", float(found["se"]), "nat"),
        row(RECORDED, OURS, "effective parameters", float(found["p_loo"]), ""),
        row(RECORDED, OURS, "trials with k > 0.7", float(found["k > 0.7"]), ""),
    ]


def large(quick: bool) -> Iterator[list[Row]]:
    """Fit a thousand subjects, and the same again with another seed as the reference.

    No other sampler finishes at this size; that ours agrees with another is shown on
    the small cohort. A second run of ours from other starts is held against the first.
    """
    cohort = large_cohort(quick)
    samples, warmup = (40, 60) if quick else (LARGE_SAMPLES, LARGE_WARMUP)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # the filter takes them all
    fits = [sample(cohort, samples, warmup, seed) for seed in (0, 1)]
    torch.set_num_threads(threads)
    rows = spent_rows(LARGE, fits)
    new = gate_rows(LARGE, fits[0], fits[1].arrays, "another run of ours")
    found = covered(fits[0].draws, cohort.truth)
    inside, total = map(sum, zip(found["omega"], found["log_zeta"], strict=True))
    about = f"{inside} of {total}; {CHAINS} chains"
    name = "coverage of 90 % intervals of subjects"
    yield [*rows, *new, row(LARGE, OURS, name, inside / total, "", about=about)]
