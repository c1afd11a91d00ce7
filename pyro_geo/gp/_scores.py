"""Scores of the predictions of a Gaussian process, beside those of a single fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_geo._process import one_thread
from pyro_geo.density import Target
from pyro_geo.errors import ShapeError
from pyro_geo.gp._predict import load_exact_gp, predict
from pyro_geo.gp._saas import saas_hyperparameters

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mixture_scores", "saas_scores"]

_DRAWS = 512  # draws that predict: more cost memory and change no digit of a score
_STARTS = 8


def mixture_scores(prediction: Distribution, y: Tensor) -> dict[str, float]:
    r"""Score predictions of single points against what was observed.

    Args:
        prediction: what :func:`predict` gives, or any distribution with a `cdf` and
            batch shape `(m,)`.
        y: observations, `(m,)`.

    Returns:
        `nll`, the mean negative log-density in nats; `rmse` of the mean; `inside_50`
        and `inside_90`, how often the central interval of that probability holds the
        observation; `calibration`, the mean gap between how often an observation falls
        below its predictive quantile and how often it should.

    Raises:
        ShapeError: there is not one prediction for each observation.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
        >>> scores = mixture_scores(normal, torch.tensor([-1.0, -0.1, 0.1, 1.0]))
        >>> scores["inside_50"], scores["inside_90"]
        (0.5, 1.0)
    """
    from pyro_geo.evaluation.scores import calibration_error

    if prediction.batch_shape != y.shape or y.dim() != 1:
        raise ShapeError(
            "predictions and observations do not fit",
            where="argument y",
            found=tuple(y.shape),
            expected=tuple(prediction.batch_shape),
            todo="Pass one observation for each point predicted.",
        )
    with torch.no_grad():
        below = prediction.cdf(y)
        # probability of the smallest central interval that holds the observation
        central = (2.0 * below - 1.0).abs()
        return {
            "nll": float(-prediction.log_prob(y).mean()),
            "rmse": float((prediction.mean - y).square().mean().sqrt()),
            "inside_50": float((central <= 0.5).double().mean()),
            "inside_90": float((central <= 0.9).double().mean()),
            "calibration": float(calibration_error(below)),
        }


def saas_scores(
    target: Target,
    q: Tensor,
    known: tuple[Tensor, Tensor],
    new: tuple[Tensor, Tensor],
    *,
    num_steps: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a SAAS posterior at new points, beside its mode and maximum likelihood.

    The mode maximises the joint density in unconstrained space, maximum likelihood the
    density of the data without the priors. Both are the best of eight random starts.

    Args:
        target: the model on the known points.
        q: draws, `(..., dim)`; 512 of them, evenly spaced, predict.
        known: inputs and observations that the model saw.
        new: inputs and observations to predict.
        num_steps: of Adam for either fit, and at most as many of L-BFGS after it.
        seed: of the random starts.

    Returns:
        One row per method: :func:`mixture_scores` and processor seconds of the fits.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x, y):
        ...     names, one = ("outputscale", "noise", "kernel_tausq"), torch.ones(1)
        ...     s, e, t = (pyro.sample(n, dist.Gamma(2.0, 1.0)) for n in names)
        ...     local = dist.Gamma(one, one).to_event(1)
        ...     w = pyro.sample("_kernel_inv_length_sq", local)
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     k = s * torch.exp(-t * w * (x - x.mT).square()) + e * torch.eye(4)
        ...     pyro.sample("y", dist.MultivariateNormal(mean.expand(4), k), obs=y)
        >>> x, y = torch.arange(4.0)[:, None], torch.ones(4)
        >>> target = Target.from_model(model, x, y)
        >>> q = torch.zeros(3, target.dim)
        >>> table = saas_scores(target, q, (x, y), (x + 0.5, y), num_steps=5)
        >>> table.index.tolist()
        ['posterior', 'mode', 'maximum likelihood']
    """
    import pandas as pd

    flat = q.reshape(-1, target.dim)
    fits = {"posterior": (flat[:: -(-len(flat) // _DRAWS)], 0.0)}
    for name, density in (("mode", target), ("maximum likelihood", _evidence(target))):
        start = time.process_time()
        fits[name] = (_best(density, num_steps, seed), time.process_time() - start)
    rows = {}
    for name, (draws, spent) in fits.items():
        values = saas_hyperparameters(target.constrain(draws))
        with torch.no_grad():
            prediction = predict(load_exact_gp(values, *known), new[0])
        rows[name] = mixture_scores(prediction, new[1]) | {"cpu_s": spent}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc["posterior", "cpu_s"] = float("nan")
    return table


def _evidence(target: Target) -> Target:
    """Make the density of the data alone, without the priors."""

    def potential(q: Tensor, *data: Tensor) -> Tensor:
        return -target.bind(data).log_likelihood(q.unsqueeze(0)).squeeze(0)

    return Target.from_potential(
        potential, target.dim, *target.data, dtype=target.dtype
    )


def _best(target: Target, num_steps: int, seed: int) -> Tensor:
    """Find the highest point of a density, `(1, dim)`, from several random starts."""
    from pyro_geo.evaluation.baselines import map_estimate

    target = target.with_rung("traced")  # too short to pay for compiling
    with one_thread():
        found = map_estimate(
            target, _STARTS, seed=seed, num_steps=num_steps, polish_steps=num_steps
        )
    value = target.log_prob(found).nan_to_num(nan=-torch.inf)
    return found[value.argmax()].unsqueeze(0)
