"""Values in plain tensors, inside a Pyro model that samples the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.checks import check_choice
from pyro_geo.errors import UnsupportedError
from pyro_geo.gp._predict import check_draws
from pyro_geo.gp._rows import differences, nodes_of
from pyro_geo.gp._transitions import NOISES, Noise, Transitions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyro_geo.gp.td import ExactGPTD

__all__ = ["TDNormal", "gptd_model", "load_gptd"]


class TDNormal:
    r"""The law of rewards given hyperparameters, in plain tensors.

    .. math:: r \sim N(H m, \; H K H' + \Sigma)

    with a Matern-5/2 kernel. Make it once, outside of the model, and call it inside.
    All chains then share what depends on the data alone, and are evaluated together.

    Args:
        transitions: steps, without a batch; up to some hundreds.
        noise: `"reward"` or `"return"`, see :class:`~pyro_geo.gp.TDLikelihood`.

    Raises:
        UnsupportedError: transitions are batched.

    Example:
        >>> x = torch.arange(2.0)[:, None]
        >>> law = TDNormal(Transitions(x, x + 100, torch.ones(2), 0.5))
        >>> one = torch.ones((), dtype=torch.float64)
        >>> law(2 * one, one, 0.01 * one.expand(1), one).mean.tolist()
        [1.0, 1.0]
    """

    def __init__(self, transitions: Transitions, noise: Noise = "reward") -> None:
        check_choice("noise", noise, NOISES)
        if transitions.batch_shape:
            raise UnsupportedError(
                "a batch of transitions",
                where="argument transitions",
                found=f"batch shape {tuple(transitions.batch_shape)}",
                expected="none: the batch axis is that of the chains",
                todo="Make one model for each member.",
            )
        self.transitions = transitions
        rows = transitions.pack()
        self._nodes = nodes_of(rows, transitions.dim, transitions.successors)
        x = self._nodes.x
        n = len(x)
        i, j = torch.triu_indices(n, n, 1)
        # squares of differences, so that no digits cancel and all chains share them
        self._squares = (x[i] - x[j]).square()
        self._place = torch.zeros(n, n, dtype=torch.long)
        self._place[i, j] = self._place[j, i] = torch.arange(1, len(i) + 1)
        discount = transitions.discount
        self._mean = 1 - discount
        self._noise = torch.eye(len(transitions), dtype=x.dtype)
        if noise == "return":
            transitions.check_chain()
            side = torch.diag_embed((-discount * transitions.linked)[:-1], 1)
            self._noise = torch.diag_embed(1 + discount.square()) + side + side.mT

    def __call__(
        self, mean: Tensor, outputscale: Tensor, lengthscale: Tensor, noise: Tensor
    ) -> dist.MultivariateNormal:
        """Give the law of the rewards.

        Args:
            mean: of values, `()`.
            outputscale: variance of values, `()`.
            lengthscale: of each column, `(D,)`.
            noise: variance of the noise, `()`.

        Returns:
            A normal distribution, event shape `(T,)`.
        """
        square = self._squares @ lengthscale.square().reciprocal()
        d = (5 * square).clamp(min=1e-12).sqrt()  # a root is infinitely steep at zero
        pairs = (1 + d + d.square() / 3) * torch.exp(-d)
        values = torch.cat([torch.ones_like(pairs[:1]), pairs])[self._place]
        rows = differences(differences(values, self._nodes, -2), self._nodes, -1)
        covariance = outputscale * rows + noise * self._noise
        return dist.MultivariateNormal(mean * self._mean, covariance)


def gptd_model(
    transitions: Transitions, noise: Noise = "reward"
) -> Callable[[], Tensor]:
    r"""Make a Pyro model of rewards with wide priors on the hyperparameters.

    .. math:: m \sim N(0, h^2 v), \quad s \sim LN(\log h v, 2), \quad
              \ell_d \sim LN(\log \mathrm{sd}(x_d), 1), \quad
              \sigma^2 \sim LN(\log v / 10, 2)

    with the variance `v` of the rewards and the horizon :math:`h = 1 / (1 - \gamma)`,
    of at most 100. For priors of your own write such a model with :class:`TDNormal`.

    Args:
        transitions: steps, without a batch.
        noise: `"reward"` or `"return"`.

    Returns:
        The model. Its sites are those that :func:`load_gptd` takes.

    Example:
        >>> from pyro import poutine
        >>> x = torch.arange(5.0)[:, None]
        >>> model = gptd_model(Transitions(x, x + 1, torch.arange(5.0), 0.9))
        >>> sorted(poutine.trace(model).get_trace().stochastic_nodes)
        ['lengthscale', 'mean', 'noise', 'outputscale']
    """
    law = TDNormal(transitions, noise)
    reward = transitions.reward
    v = reward.var(correction=0)
    v = torch.where(v > 0, v, 1.0)
    horizon = 1 / (1 - transitions.discount.max().clamp(max=0.99))
    spread = transitions.x.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)

    def model() -> Tensor:
        m = pyro.sample("mean", dist.Normal(0 * v, horizon * v.sqrt()))
        s = pyro.sample("outputscale", dist.LogNormal((horizon * v).log(), 0 * v + 2))
        length = dist.LogNormal(spread.log(), torch.ones_like(spread)).to_event(1)
        ell = pyro.sample("lengthscale", length)
        e = pyro.sample("noise", dist.LogNormal((v / 10).log(), 0 * v + 2))
        return pyro.sample("reward", law(m, s, ell, e), obs=reward)

    return model


def load_gptd(
    samples: Mapping[str, Tensor], transitions: Transitions, noise: Noise = "reward"
) -> ExactGPTD:
    """Make one batched value model of all draws of its hyperparameters.

    The batch axes are those of the draws. The model is in evaluation mode and its
    parameters are fixed; :func:`~pyro_geo.gp.predict` mixes the draws.

    Args:
        samples: `mean`, `outputscale`, `noise` (the variance), each `(*batch,)`, and
            `lengthscale`, `(*batch, D)`; further entries are ignored.
        transitions: steps, without a batch.
        noise: `"reward"` or `"return"`, as when sampling.

    Returns:
        The model. Mistakes raise as in :func:`~pyro_geo.gp.load_exact_gp`.

    Example:
        >>> x = torch.arange(5.0)[:, None]
        >>> steps = Transitions(x, x + 1, torch.ones(5), 0.9)
        >>> one = torch.ones(3)
        >>> samples = {"mean": 10 * one, "outputscale": one, "noise": one}
        >>> gp = load_gptd(samples | {"lengthscale": torch.ones(3, 1)}, steps)
        >>> gp.value(x[:2]).mean.shape
        torch.Size([3, 2])
    """
    from pyro_geo.gp._batch import Positive, load_values
    from pyro_geo.gp.td import ExactGPTD, TDLikelihood

    batch = check_draws(samples, transitions.x, transitions.reward)
    steps = transitions.expand(batch)
    gp = ExactGPTD(steps, noise=noise)
    # the draws have a least noise of their own, or none
    gp.likelihood = TDLikelihood(
        noise, steps, noise_constraint=Positive(), batch_shape=batch
    )
    gp.to(transitions.x)
    places = {
        "mean": "mean_module.base_mean.constant",
        "outputscale": "covar_module.base_kernel.outputscale",
        "noise": "likelihood.noise",
        "lengthscale": "covar_module.base_kernel.base_kernel.lengthscale",
    }
    load_values(gp, {name: samples[name].to(transitions.x) for name in places}, places)
    return gp.eval()
