"""Predictions of the Laplace approximation through a linearised model."""

from __future__ import annotations

import math
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_geo._deprecated import positional
from pyro_geo.checks import check_choice, check_count
from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import ShapeError, UnsupportedError
from pyro_geo.geometry.laplace import laplace

__all__ = ["Mixing", "class_mixing", "linearised_laplace"]

Mixing = Literal["draws", "probit", "bridge"]

# Parameters that are linearised, in the unconstrained coordinates of their support.
_PARAMETERS: dict[type, tuple[str, ...]] = {
    dist.Normal: ("loc", "scale"),
    dist.StudentT: ("df", "loc", "scale"),
    dist.Poisson: ("rate",),
    dist.Bernoulli: ("logits",),
    dist.Categorical: ("logits",),
}


@positional("seed", "mixing")
def linearised_laplace(
    target: Target,
    q_map: Tensor,
    test: Target,
    num_draws: int = 100,
    *,
    seed: int = 0,
    mixing: Mixing = "draws",
) -> dict[str, Any]:
    r"""Predict with the Laplace approximation through the model linearised at the MAP.

    .. math:: \eta(q) = \eta(\hat q) + J(\hat q) (q - \hat q), \qquad q \sim
              \text{Laplace}

    with `eta` the unconstrained parameters of each observed distribution: mean and
    log-scale, log-rate, logits. The predictions that go with the Gauss-Newton matrix.
    Where they are much wider than the noise, a mixture of few draws scores worse than
    one of many: compare methods at the same number. Under a weak prior the logits of
    classes are so wide that draws of them say little; `"probit"` and `"bridge"` mix
    them in closed form, with the mean :math:`\mu` at the MAP and the variance `v` of
    each logit over the draws, both after the mean over classes was taken off:

    .. math:: p = \mathrm{softmax}\Bigl(\frac{\mu}{\sqrt{1 + \pi v / 8}}\Bigr),
              \qquad
              p_k \propto \frac{1}{v_k} \Bigl(1 - \frac{2}{K} + \frac{e^{\mu_k}}{K^2}
              \sum_l e^{-\mu_l}\Bigr)

    Args:
        target: made from a Pyro model, on the data learnt from.
        q_map: where to expand, `(dim,)`.
        test: the same model on the data to predict.
        num_draws: how many draws of the weights.
        seed: of the draws; the global random state stays untouched.
        mixing: `"draws"`; `"probit"` for `Bernoulli` and `Categorical`; `"bridge"` for
            `Categorical`.

    Returns:
        For each observed site the distributions of its values in `test`, with the draws
        as first axis of their batch: `log_prob(y)` is `(num_draws, *shape)`, and
        `(1, *shape)` where they were mixed in closed form.

    Raises:
        ShapeError: `test` has other latent sites than `target`.
        UnsupportedError: the target was not made from a Pyro model, or a site's
            distribution has no known parameters, or not with this mixing.

    References:
        Immer, Korzepa and Bauer (2021), Improving predictions of Bayesian neural nets
        via local linearization, equation 8; MacKay (1992), The evidence framework
        applied to classification networks; Hobbhahn, Kristiadi and Hennig (2022), Fast
        predictive uncertainty for classification with Bayesian deep networks (arXiv
        2003.01227).

    Example:
        >>> import pyro
        >>> def model(x, y=None):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)
        >>> train = Target.from_model(model, torch.ones(3), torch.ones(3))
        >>> test = Target.from_model(model, torch.ones(2), torch.ones(2))
        >>> y = linearised_laplace(train, torch.zeros(1), test, num_draws=5)["y"]
        >>> y.log_prob(torch.ones(2)).shape
        torch.Size([5, 2])
    """
    density = test.density
    if not isinstance(density, ModelDensity):
        raise UnsupportedError(
            "No observed distributions to linearise",
            "argument 'test'",
            type(density).__name__,
            "a target made from a Pyro model",
            "Make the target with `Target.from_model`.",
        )
    if test.layout.dim != target.layout.dim:
        raise ShapeError(
            "Two different models",
            "argument 'test'",
            f"{test.layout.dim} latent dimensions",
            target.layout.dim,
            "Use the same model on other data.",
        )
    check_count("num_draws", num_draws)
    check_choice("mixing", mixing, ("draws", "probit", "bridge"))
    generator = torch.Generator().manual_seed(seed)
    moves = laplace(target, q_map, flat="refuse").draw(num_draws, generator) - q_map
    sites = density.observations(q_map.detach(), test.data)
    return {
        name: _linearise(density, test.data, name, q_map, moves, mixing)
        for name in sites
    }


def class_mixing(fn: Any) -> Mixing:
    """Say how the logits of a distribution are best mixed in closed form.

    Args:
        fn: of an observed site.

    Returns:
        `"bridge"` for classes, `"probit"` for two outcomes (the bridge of two is the
        MAP itself), `"draws"` for all else.
    """
    base, _ = _unwrap(fn)
    if isinstance(base, dist.Categorical):
        return "bridge"
    return "probit" if isinstance(base, dist.Bernoulli) else "draws"


def _linearise(
    density: ModelDensity,
    data: tuple[Tensor, ...],
    name: str,
    q_map: Tensor,
    moves: Tensor,
    mixing: Mixing,
) -> Any:
    """Distribution of one observed site with its parameters moved along tangents."""
    with torch.enable_grad():
        q = q_map.detach().requires_grad_()
        base, event_dims = _unwrap(density.observations(q, data)[name].fn)
        family = next((f for f in _PARAMETERS if isinstance(base, f)), None)
        if family is None:
            raise UnsupportedError(
                "No known parameters to linearise",
                f"site {name!r}",
                type(base).__name__,
                ", ".join(f.__name__ for f in _PARAMETERS),
                "Compare with another baseline for this model.",
            )
        parameters = {}
        for parameter in _PARAMETERS[family]:
            transform = biject_to(base.arg_constraints[parameter])
            value = transform.inv(getattr(base, parameter))
            tangents = _tangents(value, q, moves)
            if mixing == "draws":
                parameters[parameter] = transform(value.detach() + tangents)
            else:
                parameters[parameter] = _mix(family, name, value, tangents, mixing)
    distribution = family(**parameters, validate_args=False)
    return distribution.to_event(event_dims) if event_dims else distribution


def _mix(
    family: type, name: str, value: Tensor, tangents: Tensor, mixing: Mixing
) -> Tensor:
    """Logits of the mean prediction in closed form, `(1, *value.shape)`."""
    if family is dist.Categorical:
        value, tangents = (x - x.mean(-1, keepdim=True) for x in (value, tangents))
    elif family is not dist.Bernoulli or mixing == "bridge":
        raise UnsupportedError(
            f"mixing={mixing!r} is for {_MIXED[mixing]}",
            f"site {name!r}",
            family.__name__,
            _MIXED[mixing],
            'Use mixing="draws".',
        )
    mean, variance = value.detach().unsqueeze(0), tangents.square().mean(0, True)
    if mixing == "probit":
        return mean / (1 + math.pi / 8 * variance).sqrt()
    # the formula in logarithms, which large logits would overflow outside of them
    count = math.log(mean.shape[-1])
    raised = mean + (-mean).logsumexp(-1, keepdim=True) - 2 * count
    rest = math.log1p(-2 / mean.shape[-1]) if mean.shape[-1] > 2 else -math.inf
    share = torch.logaddexp(raised, torch.full_like(raised, rest))
    return share - variance.clamp(min=torch.finfo(variance.dtype).tiny).log()


_MIXED = {"probit": "Bernoulli and Categorical", "bridge": "Categorical"}


def _tangents(value: Tensor, q: Tensor, moves: Tensor) -> Tensor:
    """Directional derivatives `J moves`, `(draws, *value.shape)`, in reverse mode."""
    shape = moves.shape[:1] + value.shape
    if not value.requires_grad:
        return value.new_zeros(shape)
    # J^T u is linear in u, and its derivative along a move is J times the move
    u = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, q, u, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, u, moves, is_grads_batched=True)
    return pushed


def _unwrap(fn: Any) -> tuple[Any, int]:
    """Take masks and event dimensions off a distribution, and count the latter."""
    if isinstance(fn, dist.MaskedDistribution):
        return _unwrap(fn.base_dist)
    if isinstance(fn, torch.distributions.Independent):
        base, inner = _unwrap(fn.base_dist)
        return base, inner + fn.reinterpreted_batch_ndims
    return fn, 0
