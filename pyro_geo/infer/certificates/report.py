"""The certificates of a Gibbs posterior side by side, with tables and curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import notebook
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import Certificate, Predictor
from pyro_geo.infer.certificates.certify import certify
from pyro_geo.infer.certificates.holdout import certify_holdout
from pyro_geo.infer.gibbs.codebook import Codebook
from pyro_geo.infer.gibbs.model import as_tuple

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.infer.gibbs.posterior import WeightedPosterior
    from pyro_geo.io.reports import Curves

__all__ = ["CertificateReport", "certificate_report"]

_PREDICTORS: dict[str, Predictor] = {
    "ensemble, re-weighted": "retilted",
    "one particle": "single",
    "ensemble, last temperature": "gibbs",
}


class CertificateReport(NamedTuple):
    """Certificates with the tables and curves of a report.

    Attributes:
        certificates: name to certificate; those of one codebook hold at the same time.
        tables: caption to table, for :meth:`WeightedPosterior.report`.
        curves: risk, complexity and certificate by temperature, and the free energy.
    """

    certificates: dict[str, Certificate]
    tables: dict[str, pd.DataFrame]
    curves: tuple[Curves, ...]

    def __repr__(self) -> str:
        """Give each certificate in a few words."""
        shown = [f"{name}: {c.value:.4g}" for name, c in self.certificates.items()]
        return f"CertificateReport(risk at most; {'; '.join(shown)})"

    def _repr_html_(self) -> str:
        """Show the table of certificates in a notebook."""
        first = next(iter(self.certificates.values()))
        return notebook(repr(self), self.tables["Certificates"], first.assumptions)


def certificate_report(
    posterior: WeightedPosterior,
    risk: Callable[..., Tensor],
    data: tuple[Any, Any],
    *,
    delta: float = 0.05,
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> CertificateReport:
    """Certify the ensembles of a posterior, and a network with half the data held out.

    Args:
        posterior: an annealed run on the data.
        risk: what is certified, with values in [0, 1].
        data: `(args, targets)`, each a tuple or one tensor, of one length.
        delta: probability that any certificate of the codebook may fail with; the
            certificate of the held-out half and the best of both have the same.
        test: data that nothing else has seen, to estimate the true risk.
        seed: of the division into halves and of the network trained on one.

    Returns:
        Certificates, tables and curves.
    """
    book = posterior.codebook()
    certificates = {
        name: certify(book, risk, data, predictor=predictor, delta=delta)
        for name, predictor in _PREDICTORS.items()
    }
    # the usual way to compare with: half of the data is spent on testing one network
    network, losses = _held_out(posterior, risk, data, seed)
    name = "network of one half, the other held out"
    certificates[name] = certify_holdout(losses, delta=delta)
    # each with half of delta: then the better of the two may be chosen
    best = certify(book, risk, data, delta=delta / 2)
    certificates["hedge of the first and the last"] = Certificate.union(
        [best, certify_holdout(losses, delta=delta / 2)]
    )
    drawn = {
        n: c.sample(200, seed=seed)
        for n, c in certificates.items()
        if c.codebook is not None
    }
    tested = {
        n: _test_risk(posterior, risk, test, drawn.get(n, network[None]))
        for n in certificates
    }
    first = next(iter(certificates.values()))
    ladder = _ladder(posterior, book, risk, data, delta)
    return CertificateReport(
        certificates,
        {
            "Certificates": _table(certificates, tested, test is not None),
            "What they rest on": _assumptions(first),
            "Temperatures": ladder.round(4),
        },
        _curves(ladder, first.n),
    )


def _table(
    certificates: dict[str, Certificate], tested: dict[str, float], with_test: bool
) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "what is deployed": name,
            "risk at most": c.value,
            "empirical risk": c.empirical_risk,
            "complexity": c.complexity,
            "n": c.n,
            "delta": c.delta,
            "bound": c.bound,
            "status": c.status,
            **({"test risk": tested[name]} if with_test else {}),
        }
        for name, c in certificates.items()
    ]
    return pd.DataFrame(rows).round(4)


def _assumptions(certificate: Certificate) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"assumption": list(certificate.assumptions)})


def _ladder(
    posterior: WeightedPosterior,
    book: Codebook,
    risk: Callable[..., Tensor],
    data: tuple[Any, Any],
    delta: float,
) -> pd.DataFrame:
    """Tabulate the ensemble of each temperature with its complexity in the codebook."""
    losses = book.losses(risk, *data, (0.0, 1.0))
    # the codebook has the last stage first
    stages = [posterior.stages[-1], *posterior.stages[:-1]]
    shape = (len(stages), len(book))
    log_rho = torch.full(shape, -math.inf, dtype=torch.float64)
    # the ensemble of a stage has weight on the particles of that stage alone
    for i, stage in enumerate(stages):
        own = (book.source == i).to(log_rho.device)
        weights = posterior.log_weights if i == 0 else stage.log_weights
        log_rho[i, own] = weights.log_softmax(0).to(log_rho.device)
    # risk and complexity of each ensemble, in one product
    mean, k = log_rho.exp() @ losses.mean, book.kl(log_rho)
    table = posterior.path()
    order = [*range(1, len(stages)), 0]  # back to rising temperatures
    table["risk"] = mean[order].tolist()
    table["price"] = k[order].tolist()
    values = bounds.seeger(mean, k, losses.n, delta)
    table["certificate"] = values[order].tolist()
    return table


def _curves(ladder: pd.DataFrame, n: int) -> tuple[Curves, ...]:
    from pyro_geo.io.reports import Curves

    beta = ladder["beta"].tolist()
    lines = {
        "certificate": ladder["certificate"].tolist(),
        "empirical risk": ladder["risk"].tolist(),
        "complexity / n": (ladder["complexity"] / n).tolist(),
    }
    energy = {"free energy": ladder["free_energy"].tolist()}
    caption = (
        "Hot stages have the least complexity, cold ones the least empirical risk."
    )
    return (
        Curves(caption, beta, lines, "inverse temperature", "risk"),
        Curves(
            "Minus the logarithm of the normaliser; concave.",
            beta,
            energy,
            "inverse temperature",
            "nats",
        ),
    )


def _held_out(
    posterior: WeightedPosterior,
    risk: Callable[..., Tensor],
    data: tuple[Any, Any],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Fit one network to half of the data and return its losses on the other half."""
    from pyro_geo.evaluation.baselines import map_estimate

    args, targets = as_tuple(data[0]), as_tuple(data[1])
    n = len(targets[0])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    halves = [
        tuple(tuple(_rows(x, n, rows) for x in group) for group in (args, targets))
        for rows in (order[: n // 2], order[n // 2 :])
    ]
    dtype = posterior.target.dtype
    learn = posterior.model.target(*halves[0], beta=posterior.beta, dtype=dtype)
    q = map_estimate(learn, seed=seed)[0]
    model = posterior.model.with_loss(risk)
    losses = model.losses(model.target(*halves[1], dtype=dtype), q[None])[0]
    return q, losses


def _rows(value: Any, n: int, rows: Tensor) -> Any:
    of_examples = isinstance(value, Tensor) and value.dim() > 0 and len(value) == n
    return value[rows.to(value.device)] if of_examples else value


def _test_risk(
    posterior: WeightedPosterior,
    risk: Callable[..., Tensor],
    test: tuple[Any, Any] | None,
    q: Tensor,
) -> float:
    if test is None:
        return math.nan
    model = posterior.model.with_loss(risk)
    target = model.target(*test, dtype=posterior.target.dtype)
    return float(model.losses(target, q).mean())
