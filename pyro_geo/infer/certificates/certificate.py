"""A certificate, and the choice of the best of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo._showing import Shown
from pyro_geo.checks import check
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.codebook import Codebook
from pyro_geo.ops.random import draw_rows

__all__ = ["ALWAYS", "Certificate", "CertificateStatus", "Predictor"]

CertificateStatus = Literal[
    "finite_sample", "oracle", "asymptotic", "unverified", "heuristic"
]
# What every bound here assumes, and no code can see.
ALWAYS = (
    "The certifying examples are independent draws from one distribution, the one "
    "predicted on; none was left out or scaled by looking at the others.",
    "The prior, the bound and what is pooled were chosen without the certifying "
    "examples.",
    "No other certificate on these examples, of another seed or setting say, was "
    "looked at beyond the looks counted here.",
)

Predictor = Literal["retilted", "gibbs", "single", "holdout"]


@dataclass(frozen=True, repr=False)
class Certificate(Shown):
    """An upper bound on the risk of a predictor, with its assumptions.

    Attributes:
        value: the bound.
        lower: a lower bound that holds together with it, or None.
        empirical_risk: the predictor's mean loss on the certifying data.
        complexity: of the predictor, in nats.
        n: number of certifying examples.
        delta: probability that the bound may fail with, choices and looks included.
        looks: number of looks at the data that share `delta`.
        bound: name of the bound.
        assumptions: what must be true for the bound, in sentences.
        predictor: what is certified: the `"retilted"` or the `"gibbs"` ensemble, whose
            members are drawn again for each prediction, a `"single"` particle, or the
            network that a `"holdout"` set tested.
        status: `"finite_sample"`; `"oracle"` for a bound with unknown terms;
            `"asymptotic"`; `"unverified"`, where the particles were put together by
            hand; or `"heuristic"`, which certifies nothing.
        vacuous: whether the range of the loss alone implies the bound.
        log_rho: logarithms of the ensemble's weights, `(particles,)`.
        codebook: the particles.
    """

    value: float
    lower: float | None
    empirical_risk: float
    complexity: float
    n: int
    delta: float
    looks: int
    bound: str
    assumptions: tuple[str, ...]
    predictor: Predictor
    status: CertificateStatus
    vacuous: bool
    log_rho: Tensor | None = None
    codebook: Codebook | None = None

    def __str__(self) -> str:
        """State the certificate, and what it assumes by number."""
        lines = [f"{i}. {text}" for i, text in enumerate(self.assumptions, 1)]
        return "\n".join([self.summary, "if all of this is true:", *lines])

    @property
    def summary(self) -> str:
        """The certificate in one line, without its assumptions."""
        what = {
            "retilted": "the re-weighted ensemble",
            "gibbs": "the Gibbs ensemble",
            "single": "one particle",
            "holdout": "the held-out network",
        }[self.predictor]
        confidence = f"with probability {1 - self.delta:g}"
        if self.status != "finite_sample":
            confidence = f"{self.status}, no certificate"
        return (
            f"risk of {what} at most {self.value:.4f} ({confidence}; {self.bound}, "
            f"empirical risk {self.empirical_risk:.4f}, "
            f"complexity {self.complexity:.2f} nats, n = {self.n})"
        )

    def _shown_facts(self) -> dict[str, object]:
        kind = {} if self.status == "finite_sample" else {"status": self.status}
        return {
            "risk at most": self.value,
            "with probability": 1 - self.delta,
            "empirical risk": self.empirical_risk,
            "complexity": self.complexity,
            "n": self.n,
            "bound": self.bound,
            "predictor": self.predictor,
            **kind,
        }

    def _shown_notes(self) -> list[str]:
        vacuous = ["The range of the loss alone implies this bound."] * self.vacuous
        return [*vacuous, *(f"If true: {text}" for text in self.assumptions)]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and the assumptions as JSON, without the particles."""
        left_out = ("log_rho", "codebook")
        names = [f.name for f in fields(self) if f.name not in left_out]
        return {
            **{name: getattr(self, name) for name in names},
            "assumptions": list(self.assumptions),
        }

    @property
    def index(self) -> int:
        """Index of the particle of largest weight, which a single predictor is."""
        return int(self._weights().argmax())

    @positional("seed")
    def sample(self, num_draws: int, *, seed: int = 0) -> Tensor:
        """Draw members of the ensemble; every prediction takes a new one.

        Args:
            num_draws: how many.
            seed: any integer; torch's global state is left alone.

        Returns:
            Positions, `(num_draws, dim)`.
        """
        weights = self._weights().exp()
        assert self.codebook is not None
        generator = torch.Generator().manual_seed(seed)  # torch's own state stays
        return self.codebook.q[draw_rows(weights, num_draws, generator)]

    def _weights(self) -> Tensor:
        if self.log_rho is None or self.codebook is None:
            raise ConfigurationError(
                "there is no ensemble to draw from",
                where="Certificate",
                found=f"predictor {self.predictor!r}",
                expected="an ensemble of a codebook",
                todo="Use the network that the held-out set tested.",
            )
        return self.log_rho

    @staticmethod
    def union(certificates: Sequence[Certificate]) -> Certificate:
        """Choose the best of several certificates, each made with a share of `delta`.

        `J` bounds at `delta / J` each hold together with probability `1 - delta`, so
        that the choice adds `log J` to the complexity. Pooling the codebooks before the
        data are seen adds no more, and usually less.

        Args:
            certificates: on the same data.

        Returns:
            The one of the smallest value, its `delta` the sum of all.

        Example:
            >>> from pyro_geo.infer.certificates import certify_holdout
            >>> wrong = torch.zeros(2, 100).double()
            >>> wrong[1, :5] = 1
            >>> made = [certify_holdout(losses, delta=0.025) for losses in wrong]
            >>> best = Certificate.union(made)
            >>> round(best.value, 4), best.delta
            (0.0362, 0.05)
        """
        total = sum(certificate.delta for certificate in certificates)
        shown = f"{len(certificates)} certificates with deltas that sum to {total:g}"
        expected = "at least one, made with delta / J each, so that the sum is below 1"
        check(0 < total < 1, "certificates", shown, expected)
        best = min(certificates, key=lambda certificate: certificate.value)
        looks = sum(certificate.looks for certificate in certificates)
        ranks = ("finite_sample", "oracle", "asymptotic", "unverified", "heuristic")
        # the choice is only as strong as the weakest certificate it was made from
        worst = max((c.status for c in certificates), key=ranks.index)
        # the choice rests on what each of them assumes
        every = [text for c in (best, *certificates) for text in c.assumptions]
        return replace(
            best,
            delta=total,
            looks=looks,
            status=worst,
            assumptions=tuple(dict.fromkeys(every)),
        )
