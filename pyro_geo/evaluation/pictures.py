"""Predictions in pictures: how reliable they are, and what is least sure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_geo.checks import check_count, check_shape
from pyro_geo.evaluation.comparison import Prediction, class_probs
from pyro_geo.evaluation.scores import predictive_entropy
from pyro_geo.io.reports import Curves, Images

__all__ = ["least_sure", "reliability"]


def reliability(predictions: Mapping[str, Prediction], *, num_bins: int = 8) -> Curves:
    r"""Draw how often each method is right against how sure it was.

    Classes are sorted by confidence :math:`\max_k p_{ik}` into bins of equal width, and
    a bin with few data is noise. Of numbers the share is counted that lie below each
    quantile :math:`F_i^{-1}(p)` of their prediction. The line of a calibrated method is
    the diagonal.

    Args:
        predictions: method to its prediction, all of classes or all of numbers.
        num_bins: number of bins between the confidence of a guess and one; of numbers,
            that of the parts between the quantiles.

    Returns:
        The picture, for a report. A prediction of neither is an
        :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural
        networks, figure 1; Kuleshov, Fenner and Ermon (2018), Accurate uncertainties
        for deep learning using calibrated regression, figure 1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(10, 2)
        >>> labels = torch.tensor([0] * 8 + [1] * 2)
        >>> one = Prediction(probs.log()[:1, 0], probs, None, labels)
        >>> curves = reliability({"ours": one}, num_bins=2)
        >>> [round(x, 3) for x in curves.x], curves.lines["ours"][1]
        ([0.625, 0.875], 0.8...)
    """
    check_count("num_bins", num_bins)
    if all(x.probs is None and x.transforms is not None for x in predictions.values()):
        return _quantiles(predictions, num_bins)
    probs = {name: class_probs(one) for name, one in predictions.items()}
    guess = min(1 / p.shape[-1] for p in probs.values())
    edges = torch.linspace(guess, 1.0, num_bins + 1, dtype=torch.float64)
    lines: dict[str, list[float]] = {}
    for name, one in predictions.items():
        confidence, chosen = probs[name].double().max(-1)
        right = (chosen == one.labels).double()
        bins = torch.bucketize(confidence, edges[1:-1])
        count = torch.bincount(bins, minlength=num_bins)
        share = right.new_zeros(num_bins).index_add(0, bins, right) / count
        lines[name] = share.tolist()
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines["calibrated"] = middle
    return Curves(
        "Reliability: share of right answers against confidence. A calibrated method "
        "lies on its line; gaps are bins without data.",
        middle,
        lines,
        "confidence",
        "share of right answers",
    )


def _quantiles(predictions: Mapping[str, Prediction], num_parts: int) -> Curves:
    """Draw the share of numbers below each quantile of their prediction."""
    levels = torch.linspace(0.0, 1.0, num_parts + 1, dtype=torch.float64)
    lines: dict[str, list[float]] = {}
    for name, one in predictions.items():
        assert one.transforms is not None
        reached = one.transforms.detach().cpu().double()  # quantile that is the datum
        lines[name] = (reached[:, None] <= levels).double().mean(0).tolist()
    lines["calibrated"] = levels.tolist()
    return Curves(
        "Reliability: share of data below each quantile of their prediction. A "
        "calibrated method lies on its line.",
        levels.tolist(),
        lines,
        "quantile",
        "share of data below",
    )


def least_sure(
    prediction: Prediction, pixels: Tensor, *, num_images: int = 16
) -> Images:
    """Show the images of which a prediction is least sure.

    Args:
        prediction: of classes, mixed over draws.
        pixels: grey values, `(n, height, width)`.
        num_images: how many.

    Returns:
        The images of largest entropy, each with its answer, the probability of it and
        the true label.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> one = Prediction(probs.log()[:1, 0], probs, None, torch.tensor([0, 1]))
        >>> least_sure(one, torch.zeros(2, 3, 3), num_images=1).titles
        ['0? 50 %, is 1']
    """
    check_count("num_images", num_images)
    probs = class_probs(prediction)
    shape = tuple(pixels.shape)
    good = pixels.dim() == 3 and shape[0] == len(probs)
    check_shape("pixels", shape, f"({len(probs)}, height, width)", good)
    order = predictive_entropy(probs).argsort(descending=True)[:num_images]
    sure, chosen = probs[order].max(-1)
    titles = [
        f"{answer}? {100 * p:.0f} %, is {label}"
        for answer, p, label in zip(
            chosen.tolist(),
            sure.tolist(),
            prediction.labels[order].tolist(),
            strict=True,
        )
    ]
    caption = (
        f"The {len(titles)} images, of {len(probs)}, of which the prediction is least "
        "sure: answer, its probability, and the label."
    )
    return Images(caption, pixels[order].detach().cpu().numpy(), titles)
