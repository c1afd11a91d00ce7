r"""Scores of predictions: how good they are and how honest about their doubt.

Pure functions of tensors. `draws` counts equally weighted draws of a posterior or
members of an ensemble; their predictions are mixed, never scored one by one and
averaged, because a mixture is what a user of all draws predicts with. NaN in the input
gives NaN in the score.
"""

import math

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.errors import ShapeError

__all__ = [
    "accuracy",
    "auroc",
    "brier",
    "calibration_error",
    "coverage",
    "expected_calibration_error",
    "negative_log_likelihood",
    "pit",
    "predictive_entropy",
]


def negative_log_likelihood(log_prob: Tensor) -> Tensor:
    r"""Score the mixture of all draws by its mean negative log-likelihood.

    `-\frac1n \sum_i \log \frac1S \sum_s p_s(y_i)`, in nats; smaller is better. A draw
    that gives a point no density (`-inf`) does no harm as long as another one does.

    Raises :class:`~pyro_geo.errors.ShapeError` where `log_prob` is not a matrix
    with at least one entry.

    Args:
        log_prob: log-density of each held-out point under each draw, `(draws, n)`.

    Returns:
        The score, a scalar.

    References:
        Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and
        estimation.

    Example:
        >>> negative_log_likelihood(torch.tensor([[0.5], [0.1]]).log()).item()
        1.2039...
    """
    _check_table("log_prob", log_prob, "(draws, n), neither of them 0")
    # the density of the mixture is the mean of the draws' densities, not of their logs
    mixture = torch.logsumexp(log_prob, 0) - math.log(log_prob.shape[0])
    return -mixture.mean()


def brier(probs: Tensor, labels: Tensor) -> Tensor:
    r"""Score class probabilities by their squared distance to what happened.

    `\frac1n \sum_i \sum_k (p_{ik} - 1[y_i = k])^2`, between 0 and 2; smaller is better.
    For two classes it is twice the score of the one probability.

    Args:
        probs: class probabilities, the draws' mean for an ensemble, `(n, classes)`.
        labels: class indices, `(n,)`.

    Returns:
        The score, a scalar.

    References:
        Brier (1950), Verification of forecasts expressed in terms of probability.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
        >>> brier(probs, torch.tensor([0, 0])).item()
        0.4000...
    """
    _check_classes(probs, labels)
    happened = torch.nn.functional.one_hot(labels.long(), probs.shape[1])
    return (probs - happened).square().sum(1).mean()


def accuracy(probs: Tensor, labels: Tensor) -> Tensor:
    r"""Count how often the likeliest class is the right one.

    `\frac1n \sum_i 1[\arg\max_k p_{ik} = y_i]`. Among equal probabilities the first
    class counts. A row with NaN counts as NaN.

    Args:
        probs: class probabilities, or any scores that order the classes,
            `(n, classes)`.
        labels: class indices, `(n,)`.

    Returns:
        The share, a scalar.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
        >>> accuracy(probs, torch.tensor([0, 0])).item()
        0.5
    """
    _check_classes(probs, labels)
    right = (probs.argmax(1) == labels).to(probs.dtype)
    return torch.where(probs.isnan().any(1), torch.nan, right).mean()


def expected_calibration_error(
    probs: Tensor, labels: Tensor, *, num_bins: int = 15
) -> Tensor:
    r"""Compare confidence with accuracy, bin by bin.

    `\sum_b \frac{|B_b|}{n} |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|`, with the points
    sorted into `num_bins` bins of equal width by their confidence `\max_k p_{ik}`. It
    is biased upwards for few points; compare methods on the same points and bins only.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where there is no bin.

    Args:
        probs: class probabilities, `(n, classes)`.
        labels: class indices, `(n,)`.
        num_bins: number of bins, each open below and closed above.

    Returns:
        The error, a scalar between 0 and 1; 0 is calibrated.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural
        networks, equation 3.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2]]).expand(10, 2)
        >>> expected_calibration_error(probs, torch.tensor([0] * 6 + [1] * 4)).item()
        0.2000...
    """
    _check_classes(probs, labels)
    check_count("num_bins", num_bins)
    confidence, chosen = probs.max(1)
    gap = (chosen == labels).to(probs.dtype) - confidence
    edges = torch.linspace(0, 1, num_bins + 1, dtype=probs.dtype, device=probs.device)
    # NaN sorts into the last bin and makes its sum, hence the score, NaN.
    bins = torch.bucketize(confidence.detach(), edges[1:-1])
    # |B| (acc - conf) is the sum of the gaps in a bin
    total = gap.new_zeros(num_bins).index_add(0, bins, gap)
    return total.abs().sum() / len(labels)


def predictive_entropy(probs: Tensor) -> Tensor:
    r"""Compute the entropy of each predictive distribution.

    `-\sum_k p_k \log p_k`, in nats, between 0 and the logarithm of the number of
    classes, with `0 \log 0 = 0`. As a score of doubt it goes into :func:`auroc`.

    Raises :class:`~pyro_geo.errors.ShapeError` where `probs` has no axis of
    classes.

    Args:
        probs: class probabilities, `(..., classes)`.

    Returns:
        The entropies, `(...,)`.

    Example:
        >>> predictive_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    good = probs.ndim > 0 and probs.shape[-1] > 0
    check_shape("probs", probs.shape, "(..., classes)", good)
    return torch.special.entr(probs).sum(-1)


def auroc(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""Measure how well a score separates two groups: the area under the ROC curve.

    `P(s_\mathrm{out} > s_\mathrm{in}) + \frac12 P(s_\mathrm{out} = s_\mathrm{in})` over
    all pairs: 1 if the score always puts `out` above `in`, one half for chance.

    Raises :class:`~pyro_geo.errors.ShapeError` where one of the two is not a vector
    with at least one entry.

    Args:
        scores_in: scores of points like the training data, `(n,)`.
        scores_out: scores of points unlike them, `(m,)`; higher is to mean more unlike.

    Returns:
        The area, a float64 scalar.

    References:
        Hanley and McNeil (1982), The meaning and use of the area under a receiver
        operating characteristic (ROC) curve.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4]), torch.tensor([0.4, 0.9])).item()
        0.875
    """
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        good = scores.ndim == 1 and scores.numel() > 0
        check_shape(name, scores.shape, "(n,), n at least 1", good)
    # ranks instead of all n m pairs
    ordered, others = scores_in.double().sort().values, scores_out.double()
    below = torch.searchsorted(ordered, others, right=False)
    up_to = torch.searchsorted(ordered, others, right=True)
    pairs = (below.double() + up_to.double()) / 2
    area = pairs.mean() / len(scores_in)
    unknown = scores_in.isnan().any() | scores_out.isnan().any()
    return torch.where(unknown, torch.nan, area)


def coverage(draws: Tensor, targets: Tensor, *, level: float = 0.9) -> Tensor:
    r"""Count how many targets fall into the central predictive interval.

    `\frac1n \sum_i 1[q_{(1-c)/2,i} \le y_i \le q_{(1+c)/2,i}]` with the quantiles of
    the predictive draws of point `i` and `c` the level. A share near the level is
    calibrated, a smaller one overconfident. With `S` draws the interval of exact draws
    covers a little less than `c`, by about `1/S`.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where `level` is not between
    0 and 1.

    Args:
        draws: predictive draws with the observation noise in them, `(draws, n)`.
        targets: what was observed, `(n,)`.
        level: probability of the interval.

    Returns:
        The share covered, a scalar.

    References:
        Gneiting, Balabdaoui and Raftery (2007), Probabilistic forecasts, calibration
        and sharpness.

    Example:
        >>> draws = torch.linspace(-1, 1, 101)[:, None].expand(101, 3)
        >>> coverage(draws, torch.tensor([0.0, 0.5, 0.95])).item()
        0.6666...
    """
    _check_draws(draws, targets)
    check_number("level", level, 0.0, 1.0, strict=True)
    ordered = draws.sort(0).values  # torch.quantile refuses large tensors
    low = _quantile(ordered, (1 - level) / 2)
    high = _quantile(ordered, (1 + level) / 2)
    inside = ((low <= targets) & (targets <= high)).to(draws.dtype)
    return torch.where(_unknown(draws, targets), torch.nan, inside).mean()


def pit(draws: Tensor, targets: Tensor) -> Tensor:
    r"""Place each target among its predictive draws.

    The probability integral transform `\frac1S \sum_s (1[x_{si} < y_i] +
    \frac12 1[x_{si} = y_i])`. Uniform on [0, 1] over the points if the predictions are
    calibrated; heaped at 0 and 1 if they are overconfident, in the middle if they are
    too wide.

    Args:
        draws: predictive draws with the observation noise in them, `(draws, n)`.
        targets: what was observed, `(n,)`.

    Returns:
        The transforms, `(n,)`.

    References:
        Dawid (1984), Statistical theory: the prequential approach.

    Example:
        >>> draws = torch.arange(4.0)[:, None]
        >>> pit(draws, torch.tensor([1.5])), pit(draws, torch.tensor([3.0]))
        (tensor([0.5000]), tensor([0.8750]))
    """
    _check_draws(draws, targets)
    below = (draws < targets).to(draws.dtype).mean(0)
    equal = (draws == targets).to(draws.dtype).mean(0)
    return torch.where(_unknown(draws, targets), torch.nan, below + equal / 2)


def calibration_error(transforms: Tensor, *, num_levels: int = 99) -> Tensor:
    r"""Measure how far regression predictions are from calibrated.

    `\frac1L \sum_l |\hat F(p_l) - p_l|` with `\hat F` the empirical distribution of the
    transforms and `p_l = l / (L + 1)`: the mean gap between how often a target falls
    below its predictive quantile and how often it should. 0 is calibrated; predictions
    that are far too narrow come near one quarter.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where there is no level.

    Raises :class:`~pyro_geo.errors.ShapeError` where `transforms` is not a vector
    with at least one entry.

    Args:
        transforms: what :func:`pit` gives, or the predictive distribution functions at
            the targets, `(n,)`.
        num_levels: number of quantiles compared.

    Returns:
        The error, a scalar.

    References:
        Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning
        using calibrated regression; theirs squares the gaps.

    Example:
        >>> calibration_error(torch.tensor([0.0, 1.0]), num_levels=3).item()
        0.1666...
    """
    good = transforms.ndim == 1 and transforms.numel() > 0
    check_shape("transforms", transforms.shape, "(n,), n at least 1", good)
    check_count("num_levels", num_levels)
    steps = torch.arange(1, num_levels + 1).to(transforms)
    levels = steps / (num_levels + 1)
    ordered = transforms.sort().values
    # the empirical distribution function at each level
    count = torch.searchsorted(ordered, levels, right=True).to(transforms)
    gap = (count / len(transforms) - levels).abs().mean()
    return torch.where(transforms.isnan().any(), torch.nan, gap)


def _check_table(name: str, values: Tensor, expected: str) -> None:
    """Refuse what is not a table with rows and columns."""
    check_shape(name, values.shape, expected, values.ndim == 2 and values.numel() > 0)


def _check_classes(probs: Tensor, labels: Tensor) -> None:
    """Check class probabilities and labels against each other."""
    _check_table("probs", probs, "(n, classes), neither of them 0")
    check_shape("labels", labels.shape, probs.shape[:1])
    low, high = int(labels.min()), int(labels.max())
    numbered = f"0 to {probs.shape[1] - 1}, in the order of the columns of probs"
    good = low >= 0 and high < probs.shape[1]
    check(good, "labels", f"{low} to {high}", numbered, error=ShapeError)


def _check_draws(draws: Tensor, targets: Tensor) -> None:
    """Check predictive draws and targets against each other."""
    _check_table("draws", draws, "(draws, n), neither of them 0")
    check_shape("targets", targets.shape, draws.shape[1:])


def _quantile(ordered: Tensor, level: float) -> Tensor:
    """Interpolate a quantile of each column of sorted draws."""
    # linear interpolation, as numpy.quantile has by default
    place = level * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)


def _unknown(draws: Tensor, targets: Tensor) -> Tensor:
    """Say which points hold NaN, `(n,)`."""
    return draws.isnan().any(0) | targets.isnan()
