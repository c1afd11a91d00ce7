"""Variational temporal differences, by natural gradients on minibatches."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from torch import Tensor

from pyro_geo.checks import check_choice, check_count, check_number
from pyro_geo.gp._transitions import Noise, Transitions
from pyro_geo.gp.td._cholesky import factor
from pyro_geo.gp.td._defaults import learned
from pyro_geo.gp.td._inducing import CHUNK, InducingModel, Posterior

__all__ = ["VariationalGPTD"]


class VariationalGPTD(InducingModel):
    r"""The posterior of values by stochastic variational inference.

    .. math:: \log p(r) \ge \sum_t E_q \log p(y_t \mid g_t) - KL(q(v) \| N(0, I))

    over whitened values `v` at the inducing nodes, with :math:`q(v) = N(\mu, S)` in its
    natural parameters :math:`S^{-1} \mu` and :math:`S^{-1}`. Each step takes a
    minibatch: a natural-gradient step for `q`, which is closed, and one of Adam for
    the hyperparameters. A step of size one on all rows gives the posterior of
    :class:`~pyro_geo.gp.SparseGPTD`.

    Use it instead of that one when rewards have outliers, or to learn hyperparameters
    from all of very many rows. :meth:`fit` ends with such a step on all rows. Noise of
    returns is taken in the return form. The noise of the last visit of each *truncated*
    episode, which all its rows share, is one more variable of `q`; many thousands of
    such episodes make it slow.

    Args:
        transitions: steps of one or of many episodes.
        noise: `"reward"` or `"return"`, see :class:`~pyro_geo.gp.TDLikelihood`.
        likelihood: `"gaussian"`, or `"student_t"` against outliers.
        degrees: degrees of freedom of the latter.
        kernel: covariance of values over the `D` columns of a node; a scaled Matern-5/2
            kernel with a lengthscale for each column when left out.
        mean: mean of values; a constant, which is learned, when left out.
        num_inducing: how many inducing nodes, centres of the nodes by k-means; a fifth
            of the transitions and at most 512 when left out.
        inducing_points: inducing nodes of your own, `(*batch, M, D)`.
        learn_inducing: whether :meth:`fit` moves them.

    References:
        Hensman, Fusi & Lawrence (2013), Gaussian processes for big data; Salimbeni,
        Eleftheriadis & Hensman (2018), Natural gradients in practice. Student's
        likelihood as a scale mixture of normals, and the shared noise of truncated
        episodes as a variable: derived.

    Example:
        >>> x = torch.linspace(0, 1, 201)[:, None]
        >>> steps = Transitions(x[:-1], x[1:], torch.ones(200), 0.9)
        >>> gp = VariationalGPTD(steps, num_inducing=10).fit(num_steps=20)
        >>> gp.value(x[:1]).mean.round().tolist()
        [10.0]
    """

    def __init__(
        self,
        transitions: Transitions,
        *,
        noise: Noise = "reward",
        likelihood: Literal["gaussian", "student_t"] = "gaussian",
        degrees: float = 4.0,
        kernel: Kernel | None = None,
        mean: Mean | None = None,
        num_inducing: int | None = None,
        inducing_points: Tensor | None = None,
        learn_inducing: bool = False,
    ) -> None:
        check_choice("likelihood", likelihood, ("gaussian", "student_t"))
        check_number("degrees", degrees, strict=True)
        super().__init__(
            transitions,
            noise=noise,
            kernel=kernel,
            mean=mean,
            num_inducing=num_inducing,
            inducing_points=inducing_points,
            learn_inducing=learn_inducing,
        )
        self.degrees = degrees if likelihood == "student_t" else math.inf
        size = self.inducing_points.shape[-2] + self._data.groups
        eye = torch.eye(size).to(transitions.x)
        self.precision: Tensor
        self.shift: Tensor
        batch = transitions.batch_shape
        self.register_buffer("precision", eye.expand(*batch, size, size).clone())
        self.register_buffer("shift", eye.new_zeros(*batch, size))

    def fit(
        self,
        num_steps: int = 300,
        *,
        batch_size: int = 1024,
        learning_rate: float = 0.1,
        natural_rate: float = 0.1,
        seed: int = 0,
    ) -> Self:
        """Learn the hyperparameters and the posterior.

        Args:
            num_steps: how many minibatches.
            batch_size: rows of a minibatch; all of them, if there are no more.
            learning_rate: of Adam, for the hyperparameters; it falls to a tenth.
            natural_rate: of the natural gradient on a minibatch; it is 1 where that has
                all rows.
            seed: of the choice of rows.

        Returns:
            The model itself, in evaluation mode.
        """
        check_count("num_steps", num_steps, 0)
        check_count("batch_size", batch_size)
        check_number("natural_rate", natural_rate, 0.0, 1.0 + 1e-9, strict=True)
        self.train()
        total = self._data.target.shape[-1]
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam(self._groups(learning_rate))
        # down to a tenth, so that the last steps settle
        slowing = torch.optim.lr_scheduler.LinearLR(
            optimiser, 1.0, 0.1, max(1, num_steps)
        )
        waiting = torch.empty(0, dtype=torch.long)
        for _ in range(num_steps):
            if total <= batch_size:
                rows, rate = torch.arange(total), 1.0
            else:
                if len(waiting) < batch_size:
                    waiting = torch.randperm(total, generator=generator)
                rows, waiting = waiting[:batch_size], waiting[batch_size:]
                rate = natural_rate
            self.natural_step(rate, rows)
            optimiser.zero_grad()
            loss = -self._elbo(rows).sum() - self._log_priors()
            (loss / total).backward()
            optimiser.step()
            slowing.step()
        # minibatches leave noise in the posterior; a pass over all rows does not
        self.natural_step()
        return self.eval()

    @torch.no_grad()
    def natural_step(self, rate: float = 1.0, rows: Tensor | None = None) -> None:
        r"""Move `q` along the natural gradient.

        .. math:: S^{-1} \leftarrow (1 - \rho) S^{-1}
                  + \rho \Bigl(I + \tfrac TB \sum_t \lambda_t \phi_t \phi_t'\Bigr)

        with :math:`\lambda = 1 / \sigma^2`, or under Student's likelihood the expected
        precision of each row.

        Args:
            rate: size :math:`\rho` of the step.
            rows: numbers of the rows to use, all when left out.
        """
        self._posterior = None
        total = self._data.target.shape[-1]
        rows = torch.arange(total) if rows is None else rows
        size = self.precision.shape[-1]
        precision = torch.eye(size).to(self.precision).expand_as(self.precision)
        shift = torch.zeros_like(self.shift)
        lower, moments = self._lower(), self._moments()
        for part in rows.split(CHUNK):
            features, y, variance = self._rows(lower, part)
            weight = self._weights(*_errors(features, y, variance, *moments))
            weight = weight * (total / len(rows))
            precision = precision + (features * weight.unsqueeze(-2)) @ features.mT
            shift = shift + (features @ (weight * y).unsqueeze(-1)).squeeze(-1)
        self.precision.lerp_(precision, rate)
        self.shift.lerp_(shift, rate)

    def log_marginal(self) -> Tensor:
        """Lower bound of the logarithm of the evidence, `(*batch,)`."""
        return self._elbo(torch.arange(self._data.target.shape[-1]))

    def _condition(self) -> Posterior:
        mean, root = self._moments()
        count = self.inducing_points.shape[-2]
        # the rows of a root of a covariance are a root of the part of those rows
        return Posterior(self._lower(), mean[..., :count], root[..., :count, :])

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        """Give parameters that are values a rate in their unit."""
        parameters, units = learned(self, self.transitions)
        return [
            {"params": [p], "lr": rate * unit}
            for p, unit in zip(parameters, units, strict=True)
        ]

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean of `q`, and a root of its covariance."""
        lower = factor(self.precision, "precision of the values")
        mean = torch.cholesky_solve(self.shift.unsqueeze(-1), lower).squeeze(-1)
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        return mean, torch.linalg.solve_triangular(lower, eye, upper=False).mT

    def _rows(self, lower: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of rows, targets less means, and variances that features miss."""
        data = self._data
        rows = data.rows[..., part, :]
        features = self._features(lower, rows)
        variance = self.covar_module(rows, diag=True)
        assert isinstance(variance, Tensor)
        missing = (variance - features.square().sum(-2)).clamp(min=0)
        mean: Any = self.mean_module(rows)
        y = data.target[..., part] - mean
        if data.groups:
            number = torch.arange(data.groups, device=y.device).unsqueeze(-1)
            own = number == data.group[..., part].unsqueeze(-2)
            shared = self.likelihood.noise.sqrt() * data.coupling[..., part]
            features = torch.cat([features, -(own * shared.unsqueeze(-2))], -2)
        return features, y, missing

    def _elbo(self, rows: Tensor) -> Tensor:
        total = self._data.target.shape[-1]
        with torch.no_grad():
            mean, root = self._moments()
        lower = self._lower()
        found: Tensor | float = 0.0
        for part in rows.split(CHUNK):
            features, y, variance = self._rows(lower, part)
            error, noise = _errors(features, y, variance, mean, root)
            found = found + self._log_density(error, noise).sum(-1)
        trace = root.square().sum((-2, -1)) + mean.square().sum(-1) - mean.shape[-1]
        logs = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return found * (total / len(rows)) - 0.5 * (trace - logs)

    def _log_density(self, error: Tensor, spread: Tensor) -> Tensor:
        r"""Expected log-density, of squared errors of the mean and variances about it.

        Student's density is a mixture of normals over their precision, whose best
        posterior is known: it remains the density at the expected squared error.

        Args:
            error: squared errors, `(*batch, n)`.
            spread: variances, `(*batch, n)`.

        Returns:
            One term for each row, `(*batch, n)`.
        """
        noise = self.likelihood.noise
        square = (error + spread) / noise
        if math.isinf(self.degrees):
            return -0.5 * (square + (2 * math.pi * noise).log())
        half = 0.5 * (self.degrees + 1)
        constant = math.lgamma(half) - math.lgamma(0.5 * self.degrees)
        logs = 0.5 * (self.degrees * math.pi * noise).log()
        return constant - logs - half * (square / self.degrees).log1p()

    def _weights(self, error: Tensor, spread: Tensor) -> Tensor:
        """Expected precision of each row."""
        noise = self.likelihood.noise
        if math.isinf(self.degrees):
            return (1 / noise).expand(error.shape)
        return (self.degrees + 1) / (self.degrees * noise + error + spread)


def _errors(
    features: Tensor, y: Tensor, missing: Tensor, mean: Tensor, root: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error of the posterior mean, and variance about it, for each row."""
    error = y - (features * mean.unsqueeze(-1)).sum(-2)
    return error.square(), missing + (root.mT @ features).square().sum(-2)
