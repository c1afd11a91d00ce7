r"""What is measured of a gene: one distribution when it is off, one when it is on."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_geo._showing import Made

__all__ = ["Channel", "floating"]

Number = Tensor | float


class Channel(Made):
    r"""Measurements of genes, independent given the state.

    .. math:: p(y \mid x) = \prod_i p_{x_i}(y_i)

    A measurement that is NaN was not made and tells nothing. Parameters are numbers, or
    tensors that broadcast with measurements `(..., n)`: `(n,)` for genes that differ,
    `(draws, n)` or `(draws, 1)` for draws of the parameters.

    Args:
        off: distribution of the measurement of a gene that is off.
        on: of one that is on.

    References:
        Imani, Ghoreishi and Braga-Neto (2018), Bayesian Control of Large MDPs with
        Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> channel = Channel(dist.Exponential(4.0), dist.Exponential(0.5))
        >>> channel.log_prob(torch.tensor([0.1, 3.0])).argmax(-1).tolist()
        [0, 1]
    """

    def __init__(self, off: TorchDistribution, on: TorchDistribution) -> None:
        self.off, self.on = off, on

    @classmethod
    def bernoulli(cls, error: Number) -> Channel:
        """Read the gene itself, wrongly with some probability.

        Args:
            error: probability of the wrong reading.

        Returns:
            The channel, whose measurements are 0.0 and 1.0.

        Example:
            >>> Channel.bernoulli(0.1).log_prob(torch.ones(1)).exp()
            tensor([[0.1000, 0.9000]])
        """
        q = floating(error)
        return cls(_bernoulli(q), _bernoulli(1 - q))

    @classmethod
    def normal(
        cls, off_mean: Number, off_scale: Number, on_mean: Number, on_scale: Number
    ) -> Channel:
        """Measure an expression level with normal noise.

        Args:
            off_mean: level of a gene that is off.
            off_scale: standard deviation of its measurements.
            on_mean: level of a gene that is on.
            on_scale: standard deviation of its measurements.

        Returns:
            The channel.

        Example:
            >>> Channel.normal(0.0, 1.0, 2.0, 1.0).log_prob(torch.ones(1)).diff().item()
            0.0
        """
        off = dist.Normal(floating(off_mean), floating(off_scale), validate_args=False)
        on = dist.Normal(floating(on_mean), floating(on_scale), validate_args=False)
        return cls(off, on)

    @classmethod
    def poisson(cls, off: Number, on: Number) -> Channel:
        """Count reads that arrive at one of two rates.

        Args:
            off: mean count of a gene that is off.
            on: mean count of a gene that is on.

        Returns:
            The channel.

        Example:
            >>> Channel.poisson(1.0, 10.0).log_prob(torch.tensor([9.0])).argmax().item()
            1
        """
        return cls(
            dist.Poisson(floating(off), validate_args=False),
            dist.Poisson(floating(on), validate_args=False),
        )

    @classmethod
    def negative_binomial(cls, off: Number, on: Number, dispersion: Number) -> Channel:
        r"""Count reads that vary more than a Poisson law allows.

        The variance at mean :math:`m` is :math:`m + \phi m^2`.

        Args:
            off: mean count of a gene that is off.
            on: mean count of a gene that is on.
            dispersion: the number :math:`\phi`, above 0.

        Returns:
            The channel.

        Example:
            >>> channel = Channel.negative_binomial(1.0, 10.0, 0.5)
            >>> channel.on.mean.item(), channel.on.variance.item()
            (10.0, 60.0)
        """
        count = 1 / floating(dispersion)

        def law(mean: Number) -> TorchDistribution:
            logits = (floating(mean) / count).log()
            return dist.NegativeBinomial(count, logits=logits, validate_args=False)

        return cls(law(off), law(on))

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-likelihood of each gene being off and on.

        Args:
            y: measurements, `(..., n)`; NaN where none was made.

        Returns:
            Two numbers for each gene, `(..., n, 2)`, differentiable in the parameters.

        Example:
            >>> Channel.bernoulli(0.1).log_prob(torch.tensor([float("nan")]))
            tensor([[0., 0.]])
        """
        missing = y.isnan()
        # 1 lies in the support of all laws, and the gradient of zero stays zero
        safe = torch.where(missing, 1.0, y)
        both = [
            torch.where(missing, 0.0, d.log_prob(safe)) for d in (self.off, self.on)
        ]
        return torch.stack(torch.broadcast_tensors(*both), -1)

    def sample(self, states: Tensor) -> Tensor:
        """Measure states, with torch's global generator.

        Both laws are sampled, so that the same seed gives measurements of two runs the
        same noise whatever their states are.

        Args:
            states: zeros and ones of any type, `(..., n)`.

        Returns:
            Measurements, `(..., n)`.

        Example:
            >>> Channel.bernoulli(0.0).sample(torch.tensor([0, 1]))
            tensor([0., 1.])
        """
        off, on = (
            d.expand(torch.broadcast_shapes(d.batch_shape, states.shape))()
            for d in (self.off, self.on)
        )
        return torch.where(states > 0.5, on, off)


def floating(value: Number) -> Tensor:
    """A tensor as it is, a number in the default type."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return torch.as_tensor(value).to(torch.get_default_dtype())


def _bernoulli(p: Tensor) -> TorchDistribution:
    return dist.Bernoulli(p, validate_args=False)
