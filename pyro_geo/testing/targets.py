"""Densities about which everything is known, for tests of samplers.

Each has exact independent draws, exact moments, and a map under which its draws become
independent standard normal: one comparison with the standard normal then checks every
marginal and every dependence at once, also where the target's own moments do not exist.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.checks import check
from pyro_geo.testing._bent import BananaTarget, FunnelTarget, MixtureTarget
from pyro_geo.testing._known import (
    HALF_LOG_TAU,
    Compile,
    KnownTarget,
    gammas,
)

__all__ = [
    "BananaTarget",
    "FunnelTarget",
    "GammaTarget",
    "KnownTarget",
    "MixtureTarget",
    "NormalTarget",
    "StudentTTarget",
]


def _normal(q: Tensor, loc: Tensor, whiten: Tensor, log_scale: Tensor) -> Tensor:
    z = whiten @ (q - loc)
    return 0.5 * (z * z).sum() + log_scale + len(q) * HALF_LOG_TAU


class NormalTarget(KnownTarget):
    r"""A normal density of any scales and condition.

    .. math:: q \sim N(\mu, R \operatorname{diag}(s)^2 R^\top)

    with `s` spaced evenly in the logarithm over a factor of `sqrt(condition)`. With a
    condition of 1e8 the standard deviations span 1e4, which a sampler has to find out
    along the axes (`rotation=None`) or along hidden directions. Float64 is needed from
    a condition of about 1e4 on.

    Args:
        dim: length of a position.
        condition: largest over smallest variance.
        scale: smallest standard deviation.
        rotation: seed of the rotation `R`; None for none.
        loc: mean of every coordinate.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: a condition below one, or a scale that is not positive.

    Example:
        >>> target = NormalTarget(3, condition=1e8, dtype=torch.float64)
        >>> target.covariance.diagonal().tolist()
        [1.0, 10000.0, 100000000.0]
        >>> target.to_normal(torch.tensor([1.0, 100.0, 2e4])).tolist()
        [1.0, 1.0, 2.0]
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        condition: float = 1.0,
        scale: float = 1.0,
        rotation: int | None = None,
        loc: float = 0.0,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(condition >= 1, "condition", condition, "at least 1")
        check(scale > 0, "scale", scale, "positive")
        steps = torch.linspace(0.0, 1.0, dim, dtype=torch.float64)
        deviations = scale * condition ** (0.5 * steps)
        axes = torch.eye(dim, dtype=torch.float64)
        if rotation is not None:
            generator = torch.Generator().manual_seed(rotation)
            axes = torch.linalg.qr(
                torch.randn(dim, dim, generator=generator, dtype=torch.float64)
            ).Q
        self.root = axes * deviations  # root @ root.mT is the covariance
        self.loc = torch.full((dim,), float(loc), dtype=torch.float64)
        super().__init__(
            _normal,
            dim,
            self.loc,
            (axes / deviations).mT,
            deviations.log().sum(),
            mean=self.loc,
            covariance=self.root @ self.root.mT,
            dtype=dtype,
            compile=compile,
        )
        self._whiten = axes / deviations

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        z = self._normals(num_draws, generator)
        return (self.loc + z @ self.root.mT).to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Whiten positions along the target's own axes, `(..., dim)`."""
        return (q.double() - self.loc) @ self._whiten


def _student(q: Tensor, df: Tensor, constant: Tensor) -> Tensor:
    return constant + 0.5 * (df + len(q)) * torch.log1p((q * q).sum() / df)


class StudentTTarget(KnownTarget):
    r"""A multivariate Student distribution: heavy tails.

    .. math:: p(q) \propto (1 + |q|^2 / \nu)^{-(\nu + d) / 2}

    Its gradient falls off in the tails, where trajectories have to be long.

    Args:
        dim: length of a position.
        df: degrees of freedom `nu`; the mean exists above 1, the covariance above 2.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: degrees of freedom that are not positive.

    Example:
        >>> target = StudentTTarget(1, df=1.0)  # Cauchy: quartiles at -1 and 1
        >>> z = target.to_normal(torch.tensor([[-1.0], [1.0]]))
        >>> torch.special.ndtr(z).flatten().tolist()
        [0.25, 0.75]
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        df: float = 3.0,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(df > 0, "df", df, "positive")
        constant = 0.5 * dim * math.log(df * math.pi) + math.lgamma(0.5 * df)
        constant -= math.lgamma(0.5 * (df + dim))
        variance = df / (df - 2) if df > 2 else math.inf
        eye = torch.eye(dim, dtype=torch.float64)
        super().__init__(
            _student,
            dim,
            df,
            constant,
            mean=torch.full((dim,), 0.0 if df > 1 else math.nan),
            covariance=torch.where(eye > 0, variance, 0.0 if df > 2 else math.nan),
            dtype=dtype,
            compile=compile,
        )
        self.df = float(df)

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        z = self._normals(num_draws, generator)
        half = gammas(0.5 * self.df, num_draws, 1, generator)  # of a chi-square
        return (z * (0.5 * self.df / half).sqrt()).to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Score each coordinate by its Student law given those before, `(..., dim)`."""
        from scipy.special import stdtr

        q = q.double()
        before = (q * q).cumsum(-1) - q * q
        df = self.df + torch.arange(self.dim, dtype=torch.float64)
        t = q * (df / (self.df + before)).sqrt()
        # in the lower tail, where probabilities keep their digits
        below = torch.as_tensor(stdtr(df.numpy(), -t.abs().numpy()))
        return -t.sign() * torch.special.ndtri(below)


def _log_gamma(q: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    constant = torch.lgamma(shape) - shape * rate.log()
    return (rate * q.exp() - shape * q + constant).sum()


class GammaTarget(KnownTarget):
    r"""Independent gamma distributions on a positive site: a Jacobian to get right.

    .. math:: x_i = e^{q_i} \sim \mathrm{Gamma}(a, r), \qquad
              \log p(q) = \sum_i a q_i - r e^{q_i} + \mathrm{const}

    Positions are logarithms; moments are of those. A sampler or a model that forgets
    `log|dx/dq|` samples the shape `a - 1`.

    Args:
        dim: length of a position.
        shape: `a`.
        rate: `r`.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: a shape or rate that is not positive.

    Example:
        >>> target = GammaTarget(1, shape=1.0)  # exponential
        >>> z = target.to_normal(torch.tensor([2.0]).log().log())
        >>> torch.special.ndtr(z).round(decimals=6).item()
        0.5
    """

    def __init__(
        self,
        dim: int = 1,
        *,
        shape: float = 2.0,
        rate: float = 1.0,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(shape > 0, "shape", shape, "positive")
        check(rate > 0, "rate", rate, "positive")
        a = torch.tensor(shape, dtype=torch.float64)
        eye = torch.eye(dim, dtype=torch.float64)
        super().__init__(
            _log_gamma,
            dim,
            shape,
            rate,
            mean=(torch.digamma(a) - math.log(rate)).expand(dim),
            covariance=torch.polygamma(1, a) * eye,
            support=constraints.positive,
            dtype=dtype,
            compile=compile,
        )
        self.shape, self.rate = float(shape), float(rate)

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        x = gammas(self.shape, num_draws, self.dim, generator)
        return (x / self.rate).log().to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Score each coordinate by the gamma distribution, `(..., dim)`."""
        x = self.rate * q.double().exp()
        a = torch.tensor(self.shape, dtype=torch.float64)
        below, above = torch.special.gammainc(a, x), torch.special.gammaincc(a, x)
        return torch.where(
            below < above, torch.special.ndtri(below), -torch.special.ndtri(above)
        )
