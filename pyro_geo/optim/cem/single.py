"""The cross-entropy method with one Gaussian."""

from __future__ import annotations

from pyro_geo.checks import known_options
from pyro_geo.optim.cem.optimizer import Optimizer
from pyro_geo.optim.cem.options import Score

__all__ = ["CEM"]


class CEM(Optimizer):
    r"""The cross-entropy method: a Gaussian that moves to its best candidates.

    Each iteration draws candidates, keeps the elites among them, and moves mean and
    variance to those of the elites,

    .. math::

        \mu \leftarrow \alpha \mu + (1 - \alpha) \operatorname{mean}(x_{1:E}), \qquad
        v \leftarrow \alpha v + (1 - \alpha) \operatorname{var}(x_{1:E}).

    Candidates lie in the box by construction: the standard deviation is at most the
    distance to the nearer bound over `trunc`, where the normal distribution is cut.
    Best where the basins of the function form one funnel; it cannot leave a ball of
    about 2.2 first standard deviations, however long it runs. Prefer
    :class:`DecentCEM` where a function has several basins, and SciPy's dual annealing
    for a cheap function of one point in few dimensions.

    Args:
        pop_size: candidates in an iteration.
        elite_frac: share of them that is elite.
        alpha: weight of the old mean and variance; other libraries often name the
            weight of the new ones so.
        min_var: a search whose variances are all at most this has converged; 0 for
            none to converge.
        max_iters: most iterations from a start on.
        trunc: standard deviations at which draws are cut; infinity for normal draws,
            without bounds.
        variance_correction: whether to divide the variance of elites by that of the
            truncated normal distribution, .7737 for `trunc=2`, which takes away the
            part of the shrinking that has nothing to do with selection.
        restart: whether to begin again from a random mean after convergence, until the
            budget is used.
        score: what the answer is: `"best_sample"`, the best candidate; `"mean"`, the
            best centre of all lives, each evaluated once at the end; `"elite_mean"`,
            the centre whose elites cost least on average, for noisy functions.
        polish: steps of Adam from the best candidate of each instance, for functions
            that torch can differentiate; their evaluations count in the budget.
        allow_infeasible: search on after a first population without finite costs.

    Attributes:
        num_instances: searches of each problem, 1.
        shares: population of each instance.

    References:
        Zhang, Jin, Jagersand, Luo, Schuurmans (2022), A Simple Decentralized
        Cross-Entropy Method, 2212.08235. Restart, answer by the best candidate and
        correction of the variance are derived.

    Example:
        >>> import torch
        >>> bowl = lambda x: (x - 1).square().sum(-1)
        >>> result = CEM(pop_size=100).minimize(bowl, lower=-torch.ones(2) * 4, upper=4)
        >>> bool(result.fun < 1e-3), result.reason
        (True, 'converged')
    """

    @known_options
    def __init__(
        self,
        *,
        pop_size: int = 500,
        elite_frac: float = 0.1,
        alpha: float = 0.1,
        min_var: float = 1e-3,
        max_iters: int = 100,
        trunc: float = 2.0,
        variance_correction: bool = False,
        restart: bool = False,
        score: Score = "best_sample",
        polish: int | None = None,
        allow_infeasible: bool = False,
    ) -> None:
        self._configure(locals())
