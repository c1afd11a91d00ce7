"""One table: held-out scores of draws beside the plain baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import UnsupportedError
from pyro_geo.evaluation.baselines import (
    deep_ensemble,
    linearised_laplace,
)
from pyro_geo.evaluation.linearised import class_mixing
from pyro_geo.evaluation.scores import (
    accuracy,
    calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
)
from pyro_geo.ops.chunks import map_chunks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prediction", "class_probs", "predict", "prediction_scores", "score_table"]


class Prediction(NamedTuple):
    """What draws predict for held-out data of one observed site.

    Attributes:
        log_prob: of each datum under each draw, `(draws, n)`.
        probs: of each class, mixed over draws, `(n, classes)`, or None.
        transforms: mixed distribution functions at the data, `(n,)`, or None.
        labels: the data, `(n,)`.
    """

    log_prob: Tensor
    probs: Tensor | None
    transforms: Tensor | None
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        """Whether the most probable class is not the label, 0 or 1 for each, `(n,)`.

        A prediction without classes is an
        :class:`~pyro_geo.errors.UnsupportedError`.
        """
        return (class_probs(self).argmax(-1) != self.labels).to(self.log_prob.dtype)


def class_probs(prediction: Prediction) -> Tensor:
    """Take the probabilities of classes from a prediction.

    Args:
        prediction: see :func:`predict`.

    Returns:
        Probabilities, `(n, classes)`.

    Raises:
        UnsupportedError: it is not one of classes.
    """
    if prediction.probs is not None:
        return prediction.probs.detach()
    raise UnsupportedError(
        "the prediction is not one of classes",
        where="argument prediction",
        found="no probabilities of classes",
        expected="predictions of a Categorical or Bernoulli site",
        todo="For numbers see pyro_geo.evaluation.scores.coverage.",
    )


def predict(test: Target, q: Tensor) -> Prediction:
    """Predict held-out data with draws.

    Args:
        test: a Pyro model with one observed site, on held-out data.
        q: draws, `(draws, dim)`.

    Returns:
        The predictions, draws mixed with equal weight.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(m, 1.0), obs=y)
        >>> test = Target.from_model(model, torch.zeros(3))
        >>> predict(test, torch.zeros(2, 1)).transforms.tolist()
        [0.5, 0.5, 0.5]
    """
    density, name = _single_site(test)

    def quantities(one: Tensor) -> dict[str, Tensor]:
        fn, value, _, _ = density.observations(one, test.data)[name]
        return _quantities(fn, value)

    values = map_chunks(lambda chunk: test.map(quantities, chunk), q, 64)
    return _prediction(values, test.observed[name])


def _single_site(test: Target) -> tuple[ModelDensity, str]:
    names = list(test.observed)
    if isinstance(test.density, ModelDensity) and len(names) == 1:
        return test.density, names[0]
    raise UnsupportedError(
        "scores need one observed site",
        where="argument 'test'",
        found=f"{type(test.density).__name__} with sites {names}",
        expected="a Pyro model with one observed site",
        todo="Score each site with pyro_geo.evaluation.scores.",
    )


def _quantities(fn: Any, value: Tensor) -> dict[str, Tensor]:
    quantities = {"log_prob": fn.log_prob(value)}
    if isinstance(fn, torch.distributions.Categorical):
        quantities["probs"] = fn.probs
    elif isinstance(fn, torch.distributions.Bernoulli):
        quantities["probs"] = torch.stack([1 - fn.probs, fn.probs], -1)
    elif isinstance(fn, torch.distributions.Normal):
        quantities["cdf"] = fn.cdf(value)
    return quantities


def _prediction(quantities: dict[str, Tensor], labels: Tensor) -> Prediction:
    probs, cdf = quantities.get("probs"), quantities.get("cdf")
    return Prediction(
        quantities["log_prob"],
        None if probs is None else probs.mean(0),
        None if cdf is None else cdf.mean(0),
        labels,
    )


def prediction_scores(prediction: Prediction) -> dict[str, float]:
    """Score a prediction: mixture NLL per datum, calibration and, of classes, accuracy.

    Args:
        prediction: see :func:`predict`.

    Returns:
        `nll` in nats; `calibration`, the expected calibration error of classes or the
        mean gap of quantiles of real data; `accuracy` of classes.
    """
    scores = {"nll": float(negative_log_likelihood(prediction.log_prob))}
    if prediction.probs is not None:
        labels = prediction.labels.long()
        error = expected_calibration_error(prediction.probs, labels)
        scores["calibration"] = float(error)
        scores["accuracy"] = float(accuracy(prediction.probs, labels))
    elif prediction.transforms is not None:
        scores["calibration"] = float(calibration_error(prediction.transforms))
    return scores


def score_table(
    target: Target,
    test: Target,
    draws: dict[str, Tensor],
    *,
    num_members: int = 8,
    num_draws: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Score draws beside the MAP, a deep ensemble and the linearised Laplace.

    All are held against the same data; baselines start from the same random weights
    as an ensemble member would. The logits of classes of the linearised Laplace are
    mixed in closed form, which scores better than draws of them.

    Args:
        target: the model on its training data.
        test: the model on held-out data.
        draws: name to draws `(draws, dim)`; one row each.
        num_members: of the deep ensemble.
        num_draws: of the linearised Laplace.
        seed: of the baselines.

    Returns:
        One row per method: the scores and the processor seconds of the baselines.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {
        name: prediction_scores(predict(test, q)) for name, q in draws.items()
    }
    # one member of the ensemble is a MAP estimate, at its share of the time
    members, seconds = _timed(lambda: deep_ensemble(target, num_members, seed=seed))
    single = members[:1]
    rows["MAP"] = prediction_scores(predict(test, single))
    rows["MAP"]["cpu_s"] = seconds / num_members
    rows[f"deep ensemble of {num_members}"] = prediction_scores(predict(test, members))
    rows[f"deep ensemble of {num_members}"]["cpu_s"] = seconds
    density, name = _single_site(test)
    mixing = class_mixing(density.observations(single[0], test.data)[name].fn)
    fitted, seconds = _timed(
        lambda: linearised_laplace(
            target, single[0], test, num_draws, seed=seed, mixing=mixing
        )[name]
    )
    value = test.observed[name]
    prediction = _prediction(_quantities(fitted, value), value)
    rows["linearised Laplace"] = prediction_scores(prediction)
    rows["linearised Laplace"]["cpu_s"] = seconds + rows["MAP"]["cpu_s"]
    return pd.DataFrame.from_dict(rows, orient="index")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start
