"""Our side of the cohort benchmark, and what is asked of any draws of a cohort."""

import statistics
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from _bench import Row
from _hgf_cohorts import SITES, Cohort, limited, model_of, starts
from _hmc_common import Draws, quality, row
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import HMC, MCMC
from pyro_geo.testing.gates import compare_posterior

__all__ = ["CHAINS", "OURS", "Fit", "covered", "gate_rows", "sample", "spent_rows"]

CHAINS = 4
# Of trajectories, a bit short of a quarter of a period: longer ones jump to and fro, so
# that squares hardly change. Four chains adapt it badly.
LENGTH = 1.4
OURS = "ours"


class Fit(NamedTuple):
    """A run of our sampler with everything included.

    Attributes:
        run: the run.
        draws: site to `(chains, draws, *shape)`.
        seconds: from the model to the draws.
    """

    run: MCMC
    draws: dict[str, Tensor]
    seconds: Seconds

    @property
    def arrays(self) -> Draws:
        """The draws as arrays."""
        return {name: value.numpy() for name, value in self.draws.items()}


def sample(cohort: Cohort, samples: int, warmup: int, seed: int) -> Fit:
    """Fit a cohort in double precision.

    Args:
        cohort: inputs and responses.
        samples: draws per chain.
        warmup: steps of adaptation.
        seed: of the starts and of the run.

    Returns:
        The fit, timed from the model on: tracing and compiling are in it.
    """
    before = Seconds.now()
    run = MCMC(
        HMC(model_of(cohort), trajectory_length=LENGTH),
        samples,
        warmup,
        CHAINS,
        seed=seed,
        initial_params=starts(cohort, CHAINS, seed),
        dtype=torch.float64,
        progress_bar=False,
    )
    with warnings.catch_warnings():
        # what the draws have not reached is among the figures
        warnings.simplefilter("ignore", PyroGeoWarning)
        run.run(cohort.inputs, cohort.responses)
    found = run.get_samples(group_by_chain=True)
    found["omega"] = limited(found["omega_free"])  # a computed site is not kept
    draws = {name: found[name] for name in SITES}
    return Fit(run, draws, Seconds.now() - before)


def spent_rows(case: str, fits: list[Fit]) -> list[Row]:
    """Say what fits have cost: medians, and parts of the first."""
    cpu = [fit.seconds.cpu for fit in fits]
    wall = [fit.seconds.wall for fit in fits]
    run = fits[0].run
    spread = {"sd": statistics.stdev(cpu)} if len(fits) > 1 else {}
    attributes = run.attributes
    about = (
        f"{attributes['metric']} metric, step {attributes['step_size']:.2f}, "
        f"inertia {attributes['inertia']:.2f}, {attributes['rung']}"
    )
    rows = [
        row(
            case,
            OURS,
            "end to end",
            statistics.median(cpu),
            "s",
            seeds=len(fits),
            wall=statistics.median(wall),
            about=about,
            draws=f"{CHAINS} x {run.num_samples}",
            warmup=run.warmup_steps,
            **spread,
        ),
        row(case, OURS, "gradients per chain", run.num_gradients / CHAINS, ""),
        row(
            case,
            OURS,
            "leapfrog steps per draw",
            float(run.stats["n_steps"].double().mean()),
            "",
        ),
    ]
    for phase, value in run.timings.items():
        rows.append(row(case, OURS, phase, value.cpu, "s", wall=value.wall))
    return rows


def gate_rows(
    case: str, fit: Fit, reference: Draws | None = None, of: str = ""
) -> list[Row]:
    """Hold a fit against the gate: R-hat, effective size, and a reference.

    Args:
        case: the cohort.
        fit: ours.
        reference: draws of another sampler, or of ours in other coordinates.
        of: whose they are.

    Returns:
        The rows, with those of the comparison where there is a reference.
    """
    found = quality(fit.arrays)
    divergences = float(fit.run.stats["diverging"].sum())
    rows = [
        row(case, OURS, "largest R-hat", found.r_hat, ""),
        row(case, OURS, "smallest effective size", found.min_ess, ""),
        row(case, OURS, "divergences", divergences, ""),
    ]
    if reference is None:
        return rows
    theirs = {name: torch.as_tensor(np.array(v)) for name, v in reference.items()}
    check = compare_posterior(fit.draws, theirs)
    # what independent draws of as many scalars exceed one by is allowed for
    rows.append(row(case, OURS, "limit of R-hat", check.r_hat_limit, ""))
    share = float((check.scores.abs() / check.limits).max())
    rows.append(row(case, f"{OURS} against {of}", "largest score/limit", share, ""))
    failed = float(len(check.failures))
    note = {"note": "; ".join(check.failures[:3])} if check.failures else {}
    rows.append(
        row(case, f"{OURS} against {of}", "conditions failed", failed, "", **note)
    )
    return rows


def covered(
    draws: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> dict[str, tuple[int, int]]:
    """Count true values inside central intervals of 90 %.

    Args:
        draws: site to `(chains, draws, *shape)`.
        truth: site to its value.

    Returns:
        Site to values inside and values in all.
    """
    tails = torch.tensor([0.05, 0.95], dtype=torch.float64)
    found = {}
    for name, value in truth.items():
        low, high = draws[name].flatten(0, 1).quantile(tails, 0)
        inside = (value >= low) & (value <= high)
        found[name] = int(inside.sum()), inside.numel()
    return found
