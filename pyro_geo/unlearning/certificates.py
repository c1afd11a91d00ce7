"""What a certified deletion promises, under which assumptions, and a test of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.unlearning.noise import attack_auc, gaussian_delta

__all__ = [
    "CertificateTest",
    "CertifiedDeletion",
    "DeletionCertificate",
    "check_certificate",
]


@dataclass(frozen=True)
class DeletionCertificate:
    r"""A promise that a released state tells little of the forgotten data.

    Whatever is computed from the state, and for every set `S` of outcomes,

    .. math:: P(S) \le e^\varepsilon Q(S) + \delta \quad\text{and}\quad
              Q(S) \le e^\varepsilon P(S) + \delta,

    with `P` after this deletion and `Q` after the same procedure on a fit that never
    saw the forgotten data. It holds under the assumptions listed, and only then.

    Attributes:
        epsilon: of the promise.
        delta: of the promise.
        separation: of the two outcomes, as two normal distributions of this distance;
            never more than epsilon and delta allow.
        mechanism: what was done, in one line.
        covers: the parts of the released state that the promise is about.
        assumptions: what it takes for granted; sentences.
        settings: numbers of the mechanism.

    Example:
        >>> certificate = DeletionCertificate(
        ...     1.0, 1e-5, 0.268, "noise", ("parameters",), ("The noise is secret.",)
        ... )
        >>> round(certificate.attack_auc, 3), certificate.to_dict()["epsilon"]
        (0.575, 1.0)
    """

    epsilon: float
    delta: float
    separation: float
    mechanism: str
    covers: tuple[str, ...]
    assumptions: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, strict=True)
        check_number("delta", self.delta, 0.0, 1.0, strict=True)
        good = gaussian_delta(self.epsilon, self.separation) <= self.delta * (1 + 1e-9)
        check(good, "separation", self.separation, "one that epsilon and delta allow")

    @property
    def attack_auc(self) -> float:
        """Largest area under the curve of any attack on the released state."""
        return attack_auc(self.separation)

    @property
    def text(self) -> str:
        """The promise with all its assumptions, as a text to hand on."""
        numbers = ", ".join(f"{k} {_shown(v)}" for k, v in self.settings.items())
        lines = [
            f"({self.epsilon:g}, {self.delta:g})-certified deletion.",
            f"Covered: {', '.join(self.covers)}.",
            f"Mechanism: {self.mechanism}" + (f" ({numbers})." if numbers else "."),
            "No attack on what is covered has an area under its curve above "
            f"{self.attack_auc:.3f}.",
            "Assumptions:",
            *(f"{i}. {one}" for i, one in enumerate(self.assumptions, 1)),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all parts as plain values, for a file."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "separation": self.separation,
            "attack_auc": self.attack_auc,
            "mechanism": self.mechanism,
            "covers": list(self.covers),
            "assumptions": list(self.assumptions),
            "settings": dict(self.settings),
            "text": self.text,
        }


@dataclass(frozen=True, repr=False)
class CertifiedDeletion(Shown):
    """A fit after a certified deletion.

    Attributes:
        fit: module, guide or values, of the type that was given.
        optimizer: made anew, its memory gathered from retained data alone; None where
            none was given.
        certificate: what is promised.
        loss_retained: loss of the retained data before, after the noise, and at the
            end; for you alone, as the first of them is that of the fit before.
        citations: keys of the works behind it.
    """

    fit: Any
    optimizer: Any
    certificate: DeletionCertificate
    loss_retained: tuple[float, float, float]
    citations: tuple[str, ...] = ("gaussian_mechanism",)

    def _shown_facts(self) -> dict[str, object]:
        promise = {"epsilon": self.certificate.epsilon, "delta": self.certificate.delta}
        return {"fit": type(self.fit).__name__, **promise}

    def _shown_notes(self) -> list[str]:
        return self.certificate.text.splitlines()

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate and the losses as plain values."""
        losses = list(self.loss_retained)
        return {"certificate": self.certificate.to_dict(), "loss_retained": losses}


@dataclass(frozen=True)
class CertificateTest:
    """Outcome of a statistical test of a certificate.

    Attributes:
        rejected: whether the scores contradict the certificate.
        p_value: largest probability of such scores under the certificate.
        threshold: score above which an outcome was called a deletion.
        rates: share of deletions and of references above it.
    """

    rejected: bool
    p_value: float
    threshold: float
    rates: tuple[float, float]


def check_certificate(
    certificate: DeletionCertificate,
    deleted: Tensor,
    reference: Tensor,
    *,
    level: float = 1e-3,
) -> CertificateTest:
    r"""Test a certificate by the scores of an attack.

    The scores are one number per run: for deletions, and for the same procedure on fits
    that never saw the forgotten data. The threshold is chosen on one half of the runs,
    in either direction. On the other half, with
    `a` deletions of `n` and `b` references of `m` beyond it, the certificate says that
    the two rates obey :math:`\alpha \le e^\varepsilon \beta + \delta`. The p-value is
    the largest probability under that constraint of rates as far apart:
    :math:`\sup_\beta \min\{P(A \ge a), P(B \le b)\}`, doubled. A certificate that is
    true is rejected with probability of at most `level`.

    Args:
        certificate: what is tested.
        deleted: scores of runs with a deletion, `(n,)`.
        reference: scores of runs without the forgotten data, `(m,)`.
        level: of the test.

    Returns:
        The outcome. That it does not reject proves nothing: another attack may.

    References:
        Jagielski, Ullman and Oprea (2020), Auditing differentially private machine
        learning, 2006.07709.

    Example:
        >>> certificate = DeletionCertificate(1.0, 1e-5, 0.2, "none", (), ())
        >>> apart = torch.linspace(0, 1, 200)
        >>> check_certificate(certificate, apart + 2, apart).rejected
        True
        >>> check_certificate(certificate, apart, apart).rejected
        False
    """
    check_number("level", level, 0.0, 1.0, strict=True)
    for name, scores in (("deleted", deleted), ("reference", reference)):
        good = scores.dim() == 1 and len(scores) >= 4
        check_shape(name, scores.shape, "(runs,), at least four", good)
    one, other = deleted.double().cpu(), reference.double().cpu()
    sign, threshold = _threshold(certificate, one[::2], other[::2])
    one, other = sign * one[1::2], sign * other[1::2]
    a, b = int((one >= threshold).sum()), int((other >= threshold).sum())
    p_value = _p_value(certificate, a, len(one), b, len(other))
    return CertificateTest(
        rejected=p_value <= level,
        p_value=p_value,
        threshold=sign * threshold,
        rates=(a / len(one), b / len(other)),
    )


def _threshold(
    certificate: DeletionCertificate, one: Tensor, other: Tensor
) -> tuple[float, float]:
    """Choose direction and threshold that contradict the certificate most."""
    best = (math.inf, 1.0, 0.0)
    for sign in (1.0, -1.0):
        pooled = torch.cat([sign * one, sign * other]).unique()
        for quantile in torch.linspace(0.0, 1.0, 21).tolist():
            value = float(torch.quantile(pooled, quantile))
            a, b = (int((sign * x >= value).sum()) for x in (one, other))
            p_value = _p_value(certificate, a, len(one), b, len(other), 101)
            best = min(best, (p_value, sign, value))
    return best[1], best[2]


def _p_value(
    certificate: DeletionCertificate, a: int, n: int, b: int, m: int, points: int = 2001
) -> float:
    """Bound the probability of rates as far apart where the certificate is true."""
    import numpy as np
    from scipy.stats import binom

    # a true rate of references, and the largest one of deletions that it allows
    beta = np.linspace(0.0, 1.0, points)
    slack = 0.5 * (beta[1] - beta[0])  # rates between two of the grid
    alpha = np.minimum(
        1.0, math.exp(certificate.epsilon) * (beta + slack) + certificate.delta
    )
    many = binom.sf(a - 1, n, alpha)
    few = binom.cdf(b, m, np.maximum(beta - slack, 0.0))
    return float(min(1.0, 2 * np.minimum(many, few).max()))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
