"""One guide, moved to other data in three ways, and what each of them has kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo._showing import Shown
from pyro_geo.checks import check, check_count
from pyro_geo.density import Target
from pyro_geo.evaluation import scores
from pyro_geo.io.reports import page_title
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.optim import spd as decayed
from pyro_geo.optim.decay import anchors_from_guide
from pyro_geo.optim.decay.sites import SiteMoments
from pyro_geo.summaries._fits import read_fit
from pyro_geo.summaries.deviation import deviation_page, deviation_report

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Finetuning", "finetune"]

Data = tuple[Any, ...]


@dataclass(repr=False)
class Finetuning(Shown):
    """Fits of a guide to later data, and the earlier fit beside them.

    Attributes:
        table: scores, one row for each fit and test set: `nll` in nats, and for labels
            also `accuracy` and `ece`.
        deviations: fit to its deviation from the earlier posterior, whose standard
            deviations are the unit.
    """

    citations: ClassVar[tuple[str, ...]] = ("spd",)

    table: pd.DataFrame
    deviations: dict[str, xr.Dataset]

    def _shown_facts(self) -> dict[str, object]:
        return {"fits": ", ".join(self.deviations), "scores": len(self.table)}

    def _shown_table(self) -> pd.DataFrame:
        return self.table

    def moved(self) -> pd.DataFrame:
        """Tabulate how far each site has moved.

        Returns:
            One row for each site and one column for each fit, in standard deviations
            of the earlier posterior.
        """
        import pandas as pd

        columns = {
            name: one["prior_sd"].to_series() for name, one in self.deviations.items()
        }
        return pd.DataFrame(columns)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page with the scores and the deviation of the fit by SPD.

        Args:
            path: the file.

        Returns:
            The path.
        """
        return deviation_page(
            self.deviations["SPD"],
            path,
            title=page_title("Fine-tuning with SPD", sites=list(self.moved().index)),
            facts={"unit": "standard deviations of the earlier posterior"},
            tables={"Scores": self.table, "Moved, by fit": self.moved()},
        )


@renamed(lr="learning_rate")
def finetune(
    model: Callable[..., Any],
    earlier: Data,
    later: Data,
    tests: Mapping[str, Data],
    *,
    num_steps: int = 1000,
    learning_rate: float = 0.01,
    spd: float = 1.0,
    num_draws: int = 100,
    seed: int = 0,
) -> Finetuning:
    """Fit an `AutoNormal` to earlier data, and move it to later data in three ways.

    They are Pyro's `ClippedAdam` alone; SPD around it, anchored at the earlier
    locations; and the earlier posterior in place of the prior. The last one is the
    answer of Bayes' rule for guides of this family, which the others need not beat. The
    parameter store and the random state of the caller are left alone.

    Args:
        model: its last argument is what it observes.
        earlier: arguments of the first fit.
        later: arguments of the second one.
        tests: name to arguments that the fits are scored on.
        num_steps: steps of each fit.
        learning_rate: of each fit.
        spd: strength of SPD.
        num_draws: draws of a guide for its scores.
        seed: of everything random.

    Returns:
        Scores and deviations.

    References:
        Derived; the optimiser is that of Tian, Huang and Kira (2024), Rethinking Weight
        Decay for Robust Fine-Tuning of Foundation Models, arXiv 2411.01713.

    Example:
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("rows", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> earlier, later = torch.zeros(10), torch.ones(10)
        >>> tests = {"earlier": (earlier,), "later": (later,)}
        >>> found = finetune(model, (earlier,), (later,), tests, num_steps=20)
        >>> list(found.deviations)
        ['ClippedAdam', 'SPD', 'earlier posterior as prior']
    """
    check_count("num_steps", num_steps)
    check_count("num_draws", num_draws)
    check(bool(tests), "tests", "none", "at least one test set")
    adam = {"lr": learning_rate}
    with pyro.get_param_store().scope(), private_randomness(seed):
        guide = AutoNormal(model)
        _fit(model, guide, PyroOptim(ClippedAdam, adam), earlier, num_steps)
        anchors = anchors_from_guide(guide)
        known = {
            name: SiteMoments(
                getattr(guide.locs, name).detach().clone(),
                getattr(guide.scales, name).detach().clone(),
                True,
            )
            for name in read_fit(guide).sites
        }
        rows = _rows("earlier fit", model, guide, tests, num_draws, seed)
        start = {n: p.detach().clone() for n, p in guide.named_parameters()}
    ways: dict[str, tuple[Any, Callable[[], PyroOptim]]] = {
        "ClippedAdam": (model, lambda: PyroOptim(ClippedAdam, adam)),
        "SPD": (
            model,
            lambda: decayed(adam, anchors=anchors, base=ClippedAdam, spd=spd),
        ),
        "earlier posterior as prior": (
            _PriorFrom(known)(model),
            lambda: PyroOptim(ClippedAdam, adam),
        ),
    }
    deviations = {}
    for number, (way, (program, make)) in enumerate(ways.items()):
        own = substream(seed, number)
        with pyro.get_param_store().scope(), private_randomness(own):
            guide = AutoNormal(model)
            guide(*later)
            with torch.no_grad():
                for name, param in guide.named_parameters():
                    param.copy_(start[name])
            optimizer = make()
            _fit(program, guide, optimizer, later, num_steps)
            rows += _rows(way, model, guide, tests, num_draws, seed)
            deviations[way] = deviation_report(guide, prior=known, optimizer=optimizer)
    import pandas as pd

    return Finetuning(pd.DataFrame(rows).set_index(["fit", "test"]), deviations)


class _PriorFrom(Messenger):
    """Put normal distributions in unconstrained space in the place of priors."""

    def __init__(self, moments: Mapping[str, SiteMoments]) -> None:
        super().__init__()
        self.moments = moments

    def _pyro_sample(self, msg: Any) -> None:
        found = self.moments.get(msg["name"])
        if found is None or msg["is_observed"]:
            return
        fn = msg["fn"]
        normal = dist.Normal(found.mean, found.sd).to_event(fn.event_dim)
        transform = torch.distributions.biject_to(fn.support)
        msg["fn"] = dist.TransformedDistribution(normal, [transform])


def _fit(model: Any, guide: Any, optimizer: Any, data: Data, num_steps: int) -> None:
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    for _ in range(num_steps):
        svi.step(*data)


def _rows(
    fit: str,
    model: Callable[..., Any],
    guide: Any,
    tests: Mapping[str, Data],
    num_draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Score a guide on every test set, by the same draws."""
    with torch.no_grad(), private_randomness(seed):
        drawn = [guide() for _ in range(num_draws)]
    rows = []
    for name, data in tests.items():
        row: dict[str, Any] = {"fit": fit, "test": name}
        target = Target.from_model(model, *data, compile=False)
        sites = {
            site: torch.stack([one[site] for one in drawn])
            for site in target.layout.sites
        }
        q = target.unconstrain(sites)
        with torch.no_grad():
            log_prob = _pointwise(target, q)
            row["nll"] = float(scores.negative_log_likelihood(log_prob))
            labels = data[-1]
            if not labels.is_floating_point():
                probs = _classes(target, q, data)
                row["accuracy"] = float(scores.accuracy(probs, labels))
                row["ece"] = float(scores.expected_calibration_error(probs, labels))
        rows.append(row)
    return rows


def _classes(target: Target, q: Tensor, data: Data) -> Tensor:
    """Predict the probability of each label, `(n, classes)`."""
    *inputs, labels = data
    columns = []
    for k in range(int(labels.max()) + 1):
        same = target.with_data(*inputs, torch.full_like(labels, k))
        columns.append(_pointwise(same, q).exp().mean(0))
    return torch.stack(columns, -1)


def _pointwise(target: Target, q: Tensor) -> Tensor:
    """Log-likelihood of each observation under each draw, `(draws, n)`."""
    found = target.pointwise_log_likelihood(q)
    return torch.cat([value.flatten(1) for value in found.values()], 1)
