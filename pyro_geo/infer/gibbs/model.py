"""A prior and a predictor, as any Pyro model has them, with a loss of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check
from pyro_geo.density import Target
from pyro_geo.density.dtypes import run_dtype
from pyro_geo.density.model import ModelDensity, evaluation_mode
from pyro_geo.density.protocol import cast
from pyro_geo.density.sites import SiteStart
from pyro_geo.density.structure import first_line, is_deterministic, random_sites
from pyro_geo.engine.models import check_model, name_of, title_of
from pyro_geo.errors import (
    BetaRangeError,
    DiscreteSiteError,
    ModelError,
    PriorError,
    PyroGeoError,
    ShapeError,
)
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.ops.random import private_randomness
from pyro_geo.results.predictive import Replicator

__all__ = ["PREDICTION", "GibbsModel", "Predictor", "as_tuple"]

Loss = Callable[..., Tensor]

FACTOR = "gibbs"
PREDICTION = "prediction"  # site of what the model returns


class GibbsModel:
    r"""The Gibbs posterior of a loss: the prior of a Pyro model, tilted by the data.

    .. math:: \pi_\beta(\theta) \propto \pi(\theta)
              \exp\Bigl(-\beta \sum_{i=1}^n \ell(\theta, z_i)\Bigr)

    The sample sites of the model without observation are the prior, what it returns is
    the prediction, and its observed sites are left out. No likelihood is assumed: with
    the negative log-likelihood as loss and `beta` 1 it is the usual posterior.

    Args:
        model: a Pyro model that returns predictions, `model(*args)`.
        loss: `loss(prediction, *targets)`, one value for each example, `(n,)`.

    References:
        Catoni (2007), PAC-Bayesian supervised classification, 0712.0248;
        Wang & Yang (2026), PAC-Bayes bounds for Gibbs posteriors via singular learning
        theory, 2604.17219.

    Example:
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     return x @ w
        >>> gibbs = GibbsModel(model, lambda f, y: (f - y) ** 2)
        >>> target = gibbs.target(torch.eye(2), torch.ones(2), beta=0.5)
        >>> q = torch.zeros(3, 2)
        >>> gibbs.losses(target, q).shape, target.log_likelihood(q).tolist()
        (torch.Size([3, 2]), [-1.0, -1.0, -1.0])
    """

    def __init__(self, model: Callable[..., Any], loss: Loss) -> None:
        check_model(model, "GibbsModel")
        check(
            callable(loss), "loss", repr(loss), "a function of prediction and targets"
        )
        self.model = model
        self.loss = loss

    def __repr__(self) -> str:
        """Name the model and the loss."""
        return f"GibbsModel({self.model_name}, {name_of(self.loss)})"

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return name_of(self.model)

    @property
    def model_title(self) -> str:
        """The same for the record of a run: of a file where the name is `model`."""
        return title_of(self.model)

    def with_loss(self, loss: Loss) -> GibbsModel:
        """Return the same prior and predictor under another loss."""
        return GibbsModel(self.model, loss)

    def pyro_model(self, beta: float) -> Callable[..., Tensor]:
        """Return an ordinary Pyro model of the Gibbs posterior.

        Args:
            beta: inverse temperature of one example.

        Returns:
            A model of `(args, targets)`, as tuples or single tensors, for NUTS, SVI or
            Predictive. It returns the prediction.
        """
        _check_beta(beta)

        def gibbs(args: Any, targets: Any) -> Tensor:
            prediction, losses = self._evaluate(as_tuple(args), as_tuple(targets))
            pyro.factor(FACTOR, -beta * losses.sum())
            return prediction

        return gibbs

    def target(
        self,
        args: Any,
        targets: Any,
        *,
        beta: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> Target:
        """Make the density of the Gibbs posterior at some data.

        Args:
            args: arguments of the model, a tuple or one tensor.
            targets: what the loss compares with, a tuple or one tensor.
            beta: inverse temperature of one example;
                :meth:`~pyro_geo.Target.tempered` changes it.
            dtype: floating type, torch's default if None.

        Returns:
            The target: prior with log-Jacobians as `log_prior`, `-beta` times the
            summed loss as `log_likelihood`. A prior that is improper, scaled, masked
            or has a factor is a :class:`~pyro_geo.errors.PriorError`, a discrete site
            a :class:`~pyro_geo.errors.DiscreteSiteError`, a loss that is not one value
            for each example a :class:`~pyro_geo.errors.ShapeError`.
        """
        _check_beta(beta)
        args, targets = as_tuple(args), as_tuple(targets)
        dtype = run_dtype(dtype)
        self._check(args, targets, dtype)
        plain = Target.from_model(self._density, args, targets, dtype=dtype)
        return plain.tempered(beta)

    def losses(self, target: Target, q: Tensor) -> Tensor:
        """Evaluate the loss of every example, as many particles at once as fit.

        Args:
            target: made by :meth:`target`, at any temperature.
            q: positions, `(particles, dim)`.

        Returns:
            Losses in double precision, `(particles, n)`.
        """
        # the pointwise log-likelihood is not tempered: any temperature will do
        return -map_chunks(target.pointwise_log_likelihood, q)[FACTOR].double()

    def prior_draws(self, target: Target, num_draws: int, seed: int) -> Tensor:
        """Draw from the prior exactly.

        Args:
            target: made by :meth:`target`.
            num_draws: how many.
            seed: any integer; torch's global state is left alone.

        Returns:
            Positions, `(num_draws, dim)`.
        """
        sites, _ = Replicator(target, seed).prior(num_draws)
        return target.unconstrain({name: sites[name] for name in target.layout.sites})

    def arguments(self, target: Target) -> tuple[Any, ...]:
        """Return the arguments of the model that a target was made at.

        Args:
            target: made by :meth:`target`.

        Returns:
            The arguments, a tuple.
        """
        return self.inputs(target)[0]

    def inputs(self, target: Target) -> tuple[Any, Any]:
        """Return the arguments and the targets that a target was made at.

        Args:
            target: made by :meth:`target`.

        Returns:
            Both, each a tuple.
        """
        density = target.density
        assert isinstance(density, ModelDensity)
        # those of `_density`: the model's, and the targets
        (args, targets), _ = density.arguments(target.data)
        return args, targets

    # -- inside ---------------------------------------------------------------------

    def _evaluate(
        self, args: tuple[Any, ...], targets: tuple[Any, ...]
    ) -> tuple[Any, Tensor]:
        prediction = without_data(self.model)(*args)
        losses = self.loss(prediction, *targets)
        if isinstance(losses, Tensor) and losses.dtype == torch.bool:
            losses = losses.to(torch.get_default_dtype())  # right or wrong, 0 or 1
        return prediction, losses

    def _density(self, args: tuple[Any, ...], targets: tuple[Any, ...]) -> None:
        # one factor for each example, so that the target can tell them apart
        pyro.factor(FACTOR, -self._evaluate(args, targets)[1])

    def _compare(self, prediction: Any, *targets: Any) -> Tensor:
        """Evaluate the loss, an error in it told by shapes."""
        if not any(isinstance(x, Tensor) for x in pytree.tree_leaves(prediction)):
            raise ModelError(
                "the model returns no prediction",
                where=f"model {self.model_name!r}",
                found=repr(prediction)[:100],
                expected="a tensor with one prediction for each example",
                todo="End the model with return, and return what the loss compares.",
            )
        try:
            losses = self.loss(prediction, *targets)
            if not isinstance(losses, Tensor):
                raise ShapeError(
                    "the loss is no tensor",
                    where="argument loss",
                    found=repr(losses)[:100],
                    expected="one value for each example, (n,)",
                    todo="Return a tensor, and do not reduce over examples.",
                )
            return losses
        except (RuntimeError, TypeError, AttributeError, IndexError) as reason:
            if isinstance(reason, PyroGeoError):
                raise
            shapes = _shapes((prediction, *targets))
            raise ShapeError(
                "the loss cannot compare prediction and targets",
                where="argument loss",
                found=f"shapes {shapes}: {first_line(reason)}",
                expected="one prediction for each example",
                todo="Pass arguments and targets of the same examples.",
            ) from reason

    def _check(
        self, args: tuple[Any, ...], targets: tuple[Any, ...], dtype: torch.dtype
    ) -> None:
        """Refuse a prior that certifies nothing, and a loss of the wrong shape."""
        arguments = pytree.tree_map_only(
            Tensor, lambda x: cast((x,), dtype)[0], (args, targets)
        )
        # a prior that is scaled or improper is no distribution that particles can start
        # from, and no bound holds for it
        checked = GibbsModel(self.model, self._compare)
        # the loss is evaluated at one position, for its shape alone
        traced = poutine.trace(SiteStart(0)(checked._density))
        with torch.no_grad(), private_randomness(0), evaluation_mode(dtype):
            sites = random_sites(traced.get_trace(*arguments))
        loss = sites.pop(FACTOR)["fn"].log_factor
        first = targets[0] if targets else None
        # the loss of a batch that was averaged would weigh one example for all
        n = len(first) if isinstance(first, Tensor) and first.dim() else None
        if loss.dim() != 1 or n not in (None, len(loss)):
            raise ShapeError(
                "the loss is not one value for each example",
                where="argument loss",
                found=f"shape {tuple(loss.shape)}",
                expected="(n,)" if n is None else f"({n},)",
                todo="Do not reduce over examples; sum over outputs. A prediction of "
                "shape (n, 1) and targets (n,) need prediction.squeeze(-1).",
            )
        if not len(loss):
            raise ShapeError(
                "there are no examples",
                where="argument targets",
                found=f"shapes {_shapes(targets)}",
                expected="at least one row",
                todo="Pass arguments and targets that are not empty.",
            )
        for name, site in sites.items():
            _check_prior(name, site)


class Predictor:
    """A Pyro model with the prediction of another one as a site.

    What the model returns is the deterministic site `"prediction"`; of a tuple or a
    dictionary the parts are `"prediction.0"` and on. Observed sites are left out.

    Args:
        model: a Pyro model that returns predictions.

    Example:
        >>> def model(x):
        ...     return x * pyro.sample("w", dist.Normal(0.0, 1.0))
        >>> sites = poutine.trace(Predictor(model)).get_trace(torch.ones(3))
        >>> sites.nodes["prediction"]["value"].shape
        torch.Size([3])
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the model and name what it returns."""
        prediction = without_data(self.model)(*args, **kwargs)
        if isinstance(prediction, Tensor):
            pyro.deterministic(PREDICTION, prediction)
            return
        for index, part in enumerate(pytree.tree_leaves(prediction)):
            pyro.deterministic(f"{PREDICTION}.{index}", torch.as_tensor(part))


def _shapes(values: Any) -> list[tuple[int, ...]]:
    leaves = pytree.tree_leaves(values)
    return [tuple(getattr(leaf, "shape", ())) for leaf in leaves]


def without_data(model: Callable[..., Any]) -> Callable[..., Any]:
    """Hide a model's statements that only score data."""
    return poutine.block(model, hide_fn=_is_data)


def as_tuple(values: Any) -> tuple[Any, ...]:
    """Take several arguments, or one."""
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def _is_data(site: Any) -> bool:
    """Whether a statement only scores data; factors stay, to be refused."""
    return (
        site["type"] == "sample"
        and site["is_observed"]
        and not is_deterministic(site)
        and not isinstance(site["fn"], dist.Unit)
    )


def _check_beta(beta: float) -> None:
    if not 0 <= beta < math.inf:
        raise BetaRangeError(
            "no inverse temperature",
            where="argument beta",
            found=beta,
            expected="a finite number of at least 0",
            todo="Pass a positive number; 1 weighs a loss like a likelihood.",
        )


def _check_prior(name: str, site: Any) -> None:
    """Refuse a site whose density is not that of a distribution to draw from."""
    fn: Any = site["fn"]
    found: str | None = None
    if is_deterministic(site):
        return
    if isinstance(fn, dist.Unit):
        found = "a factor"
    elif isinstance(fn, dist.ImproperUniform):
        found = "an improper distribution"
    elif isinstance(fn, dist.Delta):
        found = "a point mass"
    elif not bool((torch.as_tensor(site["scale"]) == 1).all()):
        found = "a density to some power (poutine.scale, or a subsampled plate)"
    elif site["mask"] is not None and not bool(torch.as_tensor(site["mask"]).all()):
        found = "a masked density"
    if found is not None:
        raise PriorError(
            "the prior is not a distribution that can be drawn from",
            where=f"site {name!r}",
            found=found,
            expected="proper, normalised distributions alone",
            todo="Put what depends on data into the loss, and a proper prior here.",
        )
    support: Any = fn.support
    if support.is_discrete:
        raise DiscreteSiteError(
            "a latent site is discrete",
            where=f"site {name!r}",
            found=type(fn).__name__,
            expected="continuous sites",
            todo="Sum it out in the prediction, or relax it.",
        )
