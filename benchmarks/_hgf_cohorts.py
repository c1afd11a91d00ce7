"""The cohorts: simulated ones, a recorded one, and the model that all of them get."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from _bench import ROOT
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor
from torch.nn.functional import softplus

from pyro_geo.filtering import hgf_filter
from pyro_geo.filtering.hgf.response import BinaryAgent

__all__ = [
    "BEND",
    "FASTEST",
    "LONG",
    "MU0",
    "OF_SUBJECTS",
    "PI0",
    "PRIOR",
    "SAMPLED",
    "SHORT",
    "SITES",
    "Cohort",
    "cohort_model",
    "limited",
    "model_of",
    "recorded",
    "simulated",
    "starts",
]

MU0, PI0 = (0.0, 1.0), (10.0, 1.0)
# of the group: mean and standard deviation of normal priors
PRIOR = {
    "omega_mean": (-4.0, 1.0),
    "omega_top": (-6.0, 1.0),
    "log_zeta_mean": (0.5, 1.0),
}
_TRUTH = {
    "omega_mean": -4.0,
    "omega_sd": 0.7,
    "omega_top": -5.5,
    "log_zeta_mean": 0.7,
    "log_zeta_sd": 0.5,
}
# How far a subject's parameters are centred, from in units of the group's spread (0) to
# as they are (1): the share of that spread that its own trials explain, as a first fit
# tells it. 300 trials nearly fix a sharpness, 100 leave most of it to the group.
LONG = {"omega_free": 0.8, "log_zeta": 0.95}
SHORT = {"omega_free": 0.5, "log_zeta": 0.25}
OF_SUBJECTS = ("omega", "log_zeta")
# what is sampled for them, and whose the mean and the spread are
SAMPLED = {"omega_free": "omega", "log_zeta": "log_zeta"}
# From about -0.6 on beliefs of binary inputs run away, and within 0.05 the
# log-likelihood of a subject falls by hundreds: a wall that no step of a trajectory is
# short enough for. Nobody learns like that, and the model says so.
FASTEST, BEND = -0.7, 4.0
SITES = (*PRIOR, "omega_sd", "log_zeta_sd", *OF_SUBJECTS)
VARIABLE = "PYRO_GEO_DATA"
_RECORDING = Path("reversal_learning") / "prl_example.tsv"


class Cohort(NamedTuple):
    """What a cohort saw and did.

    Attributes:
        inputs: 0 or 1, `(subjects, trials)`.
        responses: 0 or 1, `(subjects, trials)`.
        truth: what it was simulated with, empty for a recorded one.
        centred: how far each parameter of subjects is centred.
    """

    inputs: Tensor
    responses: Tensor
    truth: dict[str, Tensor]
    centred: dict[str, float]


def cohort_model(inputs: Tensor, responses: Tensor) -> None:
    """Give each subject a learning rate and a sharpness around the group's."""
    group = {name: pyro.sample(name, _normal(*PRIOR[name])) for name in PRIOR}
    unit = torch.tensor(1.0, dtype=torch.float64)
    omega_sd = pyro.sample("omega_sd", dist.HalfNormal(unit))
    log_zeta_sd = pyro.sample("log_zeta_sd", dist.HalfNormal(unit))
    with pyro.plate("subject", len(inputs)):
        free = pyro.sample("omega_free", dist.Normal(group["omega_mean"], omega_sd))
        omega = pyro.deterministic("omega", limited(free))
        log_zeta = pyro.sample(
            "log_zeta", dist.Normal(group["log_zeta_mean"], log_zeta_sd)
        )
        both = torch.stack([omega, group["omega_top"].expand_as(omega)], -1)
        agents = BinaryAgent(inputs, log_zeta.exp(), both, [1.0], MU0, PI0)
        pyro.sample("response", agents, obs=responses)


def model_of(cohort: Cohort) -> Callable[..., None]:
    """Centre the parameters of subjects as far as the cohort's trials call for."""
    config: dict[str, Reparam] = {
        name: LocScaleReparam(share, shape_params=())
        for name, share in cohort.centred.items()
    }
    return poutine.reparam(cohort_model, config=config)


def limited(free: Tensor) -> Tensor:
    """Bend a volatility below `FASTEST`; up to -1.7, say, it stays the same number."""
    return FASTEST - softplus(FASTEST - free, beta=BEND)


def _normal(mean: float, sd: float) -> dist.Normal:
    return dist.Normal(torch.tensor(mean, dtype=torch.float64), sd)


def simulated(subjects: int, trials: int, seed: int) -> Cohort:
    """Let subjects play the first trials of the bundled task.

    Args:
        subjects: how many.
        trials: at most 320.
        seed: of the subjects and of their choices.

    Returns:
        The cohort.
    """
    generator = torch.Generator().manual_seed(seed)
    path = ROOT / "models" / "data" / "hgf_series" / "binary_task.csv"
    with path.open() as file:
        outcomes = [float(row["outcome"]) for row in csv.DictReader(file)]
    u = torch.tensor(outcomes[:trials], dtype=torch.float64).expand(subjects, -1)
    truth = {k: torch.tensor(v, dtype=torch.float64) for k, v in _TRUTH.items()}
    for name in OF_SUBJECTS:
        z = torch.randn(subjects, generator=generator, dtype=torch.float64)
        truth[name] = truth[f"{name}_mean"] + truth[f"{name}_sd"] * z
    both = torch.stack([truth["omega"], truth["omega_top"].expand(subjects)], -1)
    beliefs = hgf_filter(u, both, [1.0], MU0, PI0, kind="binary")
    logits = truth["log_zeta"].exp()[:, None] * beliefs.muhat[..., 0]
    chance = torch.rand(u.shape, generator=generator, dtype=torch.float64)
    return Cohort(u.contiguous(), (chance < logits.sigmoid()).double(), truth, LONG)


def recorded() -> Cohort | None:
    """Read the reversal learning task from the folder that `PYRO_GEO_DATA` names.

    A subject chooses one of two options and wins or loses. The input is whether option
    1 was the better one: it was if it won or the other lost.

    Returns:
        Twenty people of a hundred trials, or None where there is no such folder.
    """
    path = Path(os.environ.get(VARIABLE, "nowhere")) / _RECORDING
    if not path.exists():
        return None
    rows: dict[str, list[tuple[float, float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            first = float(int(row["choice"]) == 1)
            won = float(int(row["outcome"]) > 0)
            better = first if won else 1 - first
            rows.setdefault(row["subjID"], []).append((better, first))
    both = torch.tensor(list(rows.values()), dtype=torch.float64)
    return Cohort(both[..., 0].contiguous(), both[..., 1].contiguous(), {}, SHORT)


def starts(cohort: Cohort, chains: int, seed: int) -> dict[str, Tensor]:
    """Scatter starts around the middle of the priors, the same for every sampler.

    Args:
        cohort: whom to start.
        chains: how many starts.
        seed: of them.

    Returns:
        Site to values, `(chains, *shape)`.
    """
    generator = torch.Generator().manual_seed(seed)

    def near(centre: float, *shape: int) -> Tensor:
        z = torch.randn(chains, *shape, generator=generator, dtype=torch.float64)
        return centre + 0.3 * z

    subjects = len(cohort.inputs)
    values = {name: near(mean) for name, (mean, _) in PRIOR.items()}
    values["omega_sd"] = near(0.0).exp()
    values["log_zeta_sd"] = near(0.0).exp()
    for name, of in SAMPLED.items():
        mean, sd = values[f"{of}_mean"][:, None], values[f"{of}_sd"][:, None]
        value = near(PRIOR[f"{of}_mean"][0], subjects)
        share = cohort.centred[name]
        away = (value - mean) * sd ** (share - 1)
        values[f"{name}_decentered"] = share * mean + away
    return values
