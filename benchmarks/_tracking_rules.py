"""What each robust rule makes of an innovation: the peers, written over lanes.

Loops over the objects of the peers' packages take minutes where these take seconds;
`_tracking_packages.py` holds each rule against the package that has it. All inputs have
lanes and dynamics as leading axes, innovations `(*batch, m)`.

References:
    Student-t by variational Bayes: Agamennoni, Nieto and Nebot (2012). WoLF: Duran-
    Martin et al. (2024), arXiv 2405.05646, equations of IMQ and TMD. Probabilistic data
    association: Bar-Shalom, Daum and Huang (2009). Huber, Student-t and NIS inflation
    in one step: pyrecest 2.4.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from _tracking_scenes import Array, Flags


class Innovation(NamedTuple):
    """What a rule sees of a report.

    Attributes:
        nu: report minus prediction, `(*batch, m)`.
        S: its covariance, `(*batch, m, m)`.
        HPH: the part of it that the state makes, `(*batch, m, m)`.
        R: the part that noise makes, `(*batch, m, m)`.
        joint: squared length under the moments of all dynamics together, `(*batch,)`.
        central: squared length of their mean under the noise alone, `(*batch,)`.
    """

    nu: Array
    S: Array
    HPH: Array
    R: Array
    joint: Array
    central: Array

    @property
    def nis(self) -> Array:
        """Squared length of the innovation under its covariance."""
        return quadratic(self.S, self.nu)


class Verdict(NamedTuple):
    """What the filter does with a report.

    Attributes:
        scale: the factor on the covariance of the noise, `(*batch,)`.
        share: how much of the update is made, 0 for none, `(*batch,)`.
        evidence: log-density of the report, up to what all dynamics share, `(*batch,)`.
    """

    scale: Array
    share: Array
    evidence: Array


Rule = Callable[[Innovation, Array], Verdict]


def determinant(A: Array) -> Array:
    """Determinant of matrices of one or two rows, `(*batch, m, m)`."""
    if A.shape[-1] == 1:
        return A[..., 0, 0]
    return A[..., 0, 0] * A[..., 1, 1] - A[..., 0, 1] * A[..., 1, 0]


def inverse(A: Array) -> Array:
    """Inverse of the same; a singular one gives infinities and does not raise."""
    if A.shape[-1] == 1:
        return 1.0 / A
    turned = np.empty_like(A)
    turned[..., 0, 0], turned[..., 1, 1] = A[..., 1, 1], A[..., 0, 0]
    turned[..., 0, 1], turned[..., 1, 0] = -A[..., 0, 1], -A[..., 1, 0]
    return turned / determinant(A)[..., None, None]


def quadratic(A: Array, b: Array) -> Array:
    """Give `b' inv(A) b` for vectors `(*batch, m)`."""
    return (b * (inverse(A) @ b[..., None])[..., 0]).sum(-1)


def gaussian(S: Array, nu: Array) -> Array:
    """Log-density of an innovation."""
    m = nu.shape[-1]
    return -0.5 * (quadratic(S, nu) + np.log(determinant(S)) + m * np.log(2 * np.pi))


def scaled(seen: Innovation, scale: Array) -> Verdict:
    """Use the report with so many times the noise."""
    S = seen.HPH + scale[..., None, None] * seen.R
    return Verdict(scale, np.ones_like(scale), gaussian(S, seen.nu))


def chosen(seen: Innovation, accept: Flags) -> Verdict:
    """Use the report or leave it."""
    evidence = np.where(accept, gaussian(seen.S, seen.nu), 0.0)
    return Verdict(np.ones(evidence.shape), accept + 0.0 * evidence, evidence)


def plain(seen: Innovation, level: Array) -> Verdict:
    """Kalman's update."""
    return scaled(seen, np.ones(seen.nis.shape))


def gate(seen: Innovation, level: Array) -> Verdict:
    """Leave what is farther than `level` from the prediction."""
    return chosen(seen, seen.joint < level)


def huber(seen: Innovation, level: Array) -> Verdict:
    """Scale the noise by the length over `level`."""
    return scaled(seen, np.maximum(1.0, np.sqrt(seen.nis) / level))


def inflate(seen: Innovation, level: Array) -> Verdict:
    """Scale the noise by the squared length over `level`."""
    return scaled(seen, np.maximum(1.0, seen.nis / level))


def student(seen: Innovation, level: Array) -> Verdict:
    """Scale the noise by the weight of a Student-t, in one step."""
    m = seen.nu.shape[-1]
    return scaled(seen, np.maximum(1.0, (level + seen.nis) / (level + m)))


def student_vb(seen: Innovation, level: Array, iterations: int = 8) -> Verdict:
    """Scale the noise by its expected factor, found together with the state."""
    m = seen.nu.shape[-1]
    scale = np.ones(seen.nis.shape)
    for _ in range(iterations):
        R = scale[..., None, None] * seen.R
        gain = seen.HPH @ inverse(seen.HPH + R)
        left = seen.nu - (gain @ seen.nu[..., None])[..., 0]
        after = seen.HPH - gain @ seen.HPH
        spread = (inverse(seen.R) * after).sum((-2, -1))
        scale = (level + quadratic(seen.R, left) + spread) / (level + m)
    return scaled(seen, scale)


def wolf_imq(seen: Innovation, level: Array) -> Verdict:
    """Weigh the log-likelihood by the inverse multi-quadratic of its residual."""
    return scaled(seen, 1.0 + quadratic(seen.R, seen.nu) / level**2)


def wolf_tmd(seen: Innovation, level: Array) -> Verdict:
    """Leave what is farther than `level` in deviations of the noise alone."""
    return chosen(seen, seen.central < level**2)


def pda(seen: Innovation, level: Array, detection: float = 0.9) -> Verdict:
    """Update by the probability that the report is the target's.

    `level` is the density of clutter, in nats below the highest that the noise allows.
    """
    m = seen.nu.shape[-1]
    peak = -0.5 * (np.log(determinant(seen.R)) + m * np.log(2 * np.pi))
    clutter = np.log1p(-detection) + peak - level
    odds = np.log(detection) + gaussian(seen.S, seen.nu) - clutter
    share = 1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0)))
    return Verdict(np.ones_like(share), share, clutter + np.logaddexp(0.0, odds))


RULES: dict[str, Rule] = {
    "Kalman": plain,
    "gate": gate,
    "gate, restart": gate,
    "Huber": huber,
    "NIS-inflate": inflate,
    "Student-t": student,
    "Student-t VB": student_vb,
    "WoLF-IMQ": wolf_imq,
    "WoLF-TMD": wolf_tmd,
    "PDA": pda,
}
LEVELS: dict[str, tuple[float, ...]] = {
    "Kalman": (0.0,),
    "gate": (6.0, 9.2, 13.8, 20.0, 30.0, 60.0),
    "gate, restart": (6.0, 9.2, 13.8, 20.0, 30.0),
    "Huber": (0.5, 1.0, 1.5, 2.0, 3.0),
    "NIS-inflate": (0.3, 1.0, 2.0, 4.0, 6.0, 9.2),
    "Student-t": (2.01, 2.5, 3.0, 4.0, 6.0, 10.0),
    "Student-t VB": (0.3, 1.0, 2.0, 3.0, 5.0, 10.0),
    "WoLF-IMQ": (0.5, 1.0, 2.0, 3.0, 5.0, 8.0),
    "WoLF-TMD": (3.0, 4.0, 6.0, 9.0, 14.0),
    "PDA": (1.0, 3.0, 5.0, 8.0, 12.0),
}
PATIENCE: dict[str, tuple[float, ...]] = {"gate, restart": (3.0, 6.0, 12.0, 25.0)}
