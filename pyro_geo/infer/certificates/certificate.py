"""What a certificate says, and how several become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.codebook import Codebook

__all__ = ["Certificate", "CertificateStatus", "Predictor"]

CertificateStatus = Literal["finite_sample", "oracle", "asymptotic", "heuristic"]
Predictor = Literal["retilted", "gibbs", "single", "holdout"]


@dataclass(frozen=True)
class Certificate:
    """An upper bound on the risk of a predictor, with all that it rests on.

    Attributes:
        value: the bound.
        lower: a lower bound that holds together with it; None where there is none.
        empirical_risk: the predictor's mean loss on the certifying data.
        complexity: nats paid for it.
        n: certifying examples.
        delta: probability that the bound may fail with, choices and looks included.
        looks: looks at the data that share `delta`.
        bound: name of the bound.
        assumptions: what must be true for it, sentence by sentence.
        predictor: what is certified: the `"retilted"` or the `"gibbs"` ensemble, whose
            members are drawn anew for each prediction, a `"single"` particle, or the
            network of a `"holdout"`.
        status: `"finite_sample"`; `"oracle"` where it contains unknowns;
            `"asymptotic"`; or `"heuristic"`, which certifies nothing.
        vacuous: whether it says no more than the range of the loss does.
        log_rho: logarithms of the ensemble's weights, `(particles,)`.
        codebook: of the particles.
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
        """Say it in one line."""
        what = {
            "retilted": "the re-weighted ensemble",
            "gibbs": "the Gibbs ensemble",
            "single": "one particle",
            "holdout": "the held-out network",
        }[self.predictor]
        sure = f"with probability {1 - self.delta:g}"
        if self.status != "finite_sample":
            sure = f"{self.status}, no certificate"
        return (
            f"risk of {what} at most {self.value:.4f} ({sure}; {self.bound}, "
            f"empirical risk {self.empirical_risk:.4f}, "
            f"complexity {self.complexity:.2f} nats, n = {self.n})"
        )

    @property
    def index(self) -> int:
        """Particle of the largest weight; the one certified if it is a single one."""
        return int(self._weights().argmax())

    def sample(self, num_draws: int, seed: int = 0) -> Tensor:
        """Draw the members that predict; each prediction takes a fresh one.

        Args:
            num_draws: how many.
            seed: any integer; torch's global state is left alone.

        Returns:
            Positions, `(num_draws, dim)`.
        """
        weights = self._weights().exp()
        assert self.codebook is not None
        generator = torch.Generator().manual_seed(seed)
        rows = weights.multinomial(num_draws, replacement=True, generator=generator)
        return self.codebook.q[rows]

    def _weights(self) -> Tensor:
        if self.log_rho is None or self.codebook is None:
            raise ConfigurationError(
                "there is no ensemble to draw from",
                where="Certificate",
                found=f"predictor {self.predictor!r}",
                expected="an ensemble of a codebook",
                todo="Use the network that was held out for.",
            )
        return self.log_rho

    @staticmethod
    def union(certificates: Sequence[Certificate]) -> Certificate:
        """Choose the best of several, each made with its share of `delta`.

        `J` bounds at `delta / J` each hold together with probability `1 - delta`: the
        choice costs `log J` in the complexity. Pooling codebooks before the data costs
        no more, and usually less.

        Args:
            certificates: on the same data.

        Returns:
            The one of the smallest value, its `delta` the sum of all.

        Raises:
            ConfigurationError: there is none, or their deltas sum to 1 or more.

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
        if not 0 < total < 1:
            raise ConfigurationError(
                "no union",
                where="argument certificates",
                found=f"{len(certificates)} with deltas that sum to {total:g}",
                expected="at least one, the sum below 1",
                todo="Make each of J certificates with delta / J.",
            )
        best = min(certificates, key=lambda certificate: certificate.value)
        looks = sum(certificate.looks for certificate in certificates)
        ranks = ("finite_sample", "oracle", "asymptotic", "heuristic")
        worst = max((c.status for c in certificates), key=ranks.index)
        return replace(best, delta=total, looks=looks, status=worst)
