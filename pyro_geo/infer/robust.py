"""Starts that grouped outliers cannot capture: fits of random subsets, ranked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pyro.infer.autoguide.initialization import init_to_value
from scipy.stats import chi2
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_choice, check_count, check_seed
from pyro_geo.density import Target
from pyro_geo.engine.models import check_model, explained_data
from pyro_geo.infer._regression import Regression
from pyro_geo.optim.descent import lbfgs

__all__ = ["RobustInit", "robust_init"]

Score = Literal["capped"] | Callable[[Tensor], Tensor]

_CAP = 5.0  # nats that one datum counts at most
_FIT_STEPS, _LAST_STEPS = 40, 100
_ROUNDS = 2  # of fitting the data that a fit explains
_TIGHT = 0.1  # noise of a subset's fit, as a share of the spread of the data


class RobustInit:
    """A start in constrained space, for Pyro and for us.

    Pass it as `init_loc_fn` of an autoguide, or as `init_strategy` of Pyro's NUTS and
    of :class:`~pyro_geo.infer.HMC`. `values` also serves as `initial_params`.

    Args:
        values: site to value.
        inliers: which data the start explains, over the plate.
        scores: of the subsets, lowest first, in nats.

    Attributes:
        values: site to value.
        inliers: which data the start explains, over the plate.
        scores: of the subsets, lowest first, in nats.
    """

    def __init__(
        self, values: Mapping[str, Tensor], inliers: Tensor, scores: Tensor
    ) -> None:
        self.values = dict(values)
        self.inliers = inliers
        self.scores = scores

    def __call__(self, site: Any) -> Any:
        """Start of one site, uniform for a site that is not in `values`."""
        return init_to_value(site, values=self.values)

    def __repr__(self) -> str:
        """Name the sites and count the data that are explained."""
        inside, best = int(self.inliers.sum()), float(self.scores[0])
        return (
            f"RobustInit({', '.join(self.values)}; {inside} of {len(self.inliers)} "
            f"data explained, score {best:.4g})"
        )


@renamed(n_subsets="num_subsets")
def robust_init(
    model: Callable[..., Any] | Target,
    *args: Any,
    score: Score = "capped",
    num_subsets: int = 60,
    subset_size: int | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> RobustInit:
    r"""Find a start that explains most of the data, whatever the others are.

    A likelihood that lets outliers go has a mode for every group of data that agree,
    and chains stay in the one where they start; R-hat of a single start is blind to
    it. Here small random subsets of the data are fitted by least squares, all at once.
    Each fit is ranked on all data by

    .. math:: \sum_i \min\Bigl(\frac{r_i^2}{2 s^2}, 5\Bigr) + n \log s,
        \qquad s = 1.4826\, \mathrm{median}\,|r_i|

    after two rounds of fitting the data that it explains. The best one is fitted to
    these data with the model's own prior and likelihood. At least one subset must be
    free of outliers: with a share :math:`\epsilon` of outliers and `subset_size`
    :math:`k`, each is with probability :math:`(1 - \epsilon)^k`. Use at least four
    chains even so.

    Args:
        model: a Pyro model of observed sites in a plate that have a location: Normal,
            StudentT, LogNormal, BoundedLikelihood, ...; or a
            :class:`pyro_geo.Target` of one.
        *args: the model's arguments.
        score: `"capped"`, or a function of the absolute residuals `(subsets, sites,
            data)` to scores `(subsets,)`, lower for a better fit.
        num_subsets: how many.
        subset_size: data in each; three more than there are parameters if None, and
            at most half of the data.
        seed: of the subsets and of their starts.
        **kwargs: the model's keyword arguments.

    Returns:
        The start, a function of a site. A model without an observed site that has a
        location and a plate is a :class:`~pyro_geo.errors.ModelError`, an option out
        of range a :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Rousseeuw & Van Driessen (2006), Computing LTS regression for large data sets,
        Data Mining and Knowledge Discovery 12, for subsets and rounds; the score is
        derived.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 100.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.StudentT(2.0, mean, 0.1), obs=y)
        >>> y = torch.tensor([1.0, 1.1, 0.9, 1.0, 1.05, 9.0, 9.1, 9.0])
        >>> start = robust_init(model, y)
        >>> round(float(start.values["mean"]), 1), int(start.inliers.sum())
        (1.0, 5)
    """
    check_choice("score", score, ("capped",) if isinstance(score, str) else (score,))
    good = isinstance(score, str) or callable(score)
    check(good, "score", repr(score), '"capped" or a function of residuals')
    check_count("num_subsets", num_subsets)
    check_count("subset_size", subset_size)
    check_seed(seed)
    if isinstance(model, Target):
        check(not (args or kwargs), "args", len(args), "none with a target")
        target = model
    else:
        check_model(model, "robust_init")
        with explained_data(args, kwargs):
            target = Target.from_model(model, *args, compile=False, **kwargs)
    problem = Regression(target, _TIGHT)
    n = problem.count
    size = subset_size or max(min(target.dim + 3, n // 2), 1)
    check(size <= n, "subset_size", subset_size, f"at most {n}, the number of data")
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(num_subsets, n, generator=generator).argsort(-1)
    chosen = ranks < size
    q = target.initial(num_subsets, "uniform", generator)
    for _ in range(_ROUNDS):
        q = lbfgs(problem.least_squares(chosen.to(q)), q, _FIT_STEPS)
        info, _ = _standardised(problem.squares(q), problem.widths)
        chosen = (info < _CAP).all(1)
    q = lbfgs(problem.least_squares(chosen.to(q)), q, _FIT_STEPS)
    squares = problem.squares(q)
    info, log_scale = _standardised(squares, problem.widths)
    if callable(score):
        scores = score(squares.sqrt())
    else:
        scores = (info.clamp(max=_CAP).sum(-1) + n * log_scale).sum(-1)
    scores = torch.where(scores.isfinite(), scores, torch.inf)
    order = scores.argsort()
    best = order[:1]
    inliers = (info[best] < _CAP).all(1)
    # the scale and whatever else the squares do not see
    fitted = lbfgs(problem.posterior(inliers.to(q)), q[best], _LAST_STEPS)
    values = {name: x[0] for name, x in target.constrain(fitted).items()}
    return RobustInit(values, problem.on_plate(inliers[0]), scores[order])


def _standardised(squares: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Information of each datum at a robust scale, and the logarithm of that scale.

    Args:
        squares: squared residuals, `(lanes, sites, data)`.
        widths: numbers in a datum of each site.

    Returns:
        Nats per number, `(lanes, sites, data)`; log-scale times numbers in a datum,
        `(lanes, sites)`.
    """
    # for one number the median of a squared normal, 1 / 1.4826^2
    middle = torch.as_tensor(chi2.median(widths.numpy())).to(squares)
    widths = widths.to(squares)
    variance = squares.median(-1).values / middle
    # data that agree to the bit have no scale: keep their number the larger merit
    variance = variance.clamp(min=torch.finfo(squares.dtype).tiny ** 0.5)
    info = squares / (2 * variance[..., None] * widths[:, None])
    return info, 0.5 * widths * variance.log()
