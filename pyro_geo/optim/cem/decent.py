"""Many cross-entropy searches that share a budget."""

from __future__ import annotations

from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, known_options
from pyro_geo.optim.cem.layouts import LAYOUTS, Layout
from pyro_geo.optim.cem.options import Score
from pyro_geo.optim.cem.single import CEM
from pyro_geo.optim.cem.starts import INITS, Init

__all__ = ["DecentCEM"]

_WITH_COLOUR = "a number of steps with init='coloured', and None otherwise"


class DecentCEM(CEM):
    r"""Many cross-entropy searches that share a budget and rank only their own.

    Each instance is a :class:`CEM` on its own share of the population; the answer is
    the best over the instances. With :math:`q_m` the chance that instance :math:`m`
    ends in the basin of the lowest minimum, they find it with chance

    .. math:: 1 - \prod_m (1 - q_m),

    so that splitting a population helps where :math:`q` falls slowly with the share:
    where several basins mislead, and not where one wide Gaussian sees a funnel.

    Args:
        num_instances: how many searches each problem has.
        layout: `"portfolio"` gives half the population to one instance that starts in
            the middle, and equal shares of the rest to the others; `"uniform"` gives
            all of them equal shares, as published. Neither is better everywhere.
        restart: whether an instance that has converged begins again from a random
            mean, so that its share of the budget is not lost.
        init: where instances start: `"random"`, at draws of the first distribution;
            `"coloured"`, for points that are sequences of actions, at an offset that is
            the same at each step of time, since independent ones average out; or the
            means themselves, `(..., instances, dim)`.
        horizon: steps of time in a point, time first; for `"coloured"` alone.
        pop_size: candidates of all instances in an iteration.
        elite_frac: share of each population that is elite.
        alpha: weight of the old mean and variance.
        min_var: variance at which an instance has converged.
        max_iters: most iterations of an instance from a start on.
        trunc: standard deviations at which draws are cut.
        variance_correction: whether to undo the shrinking by truncation.
        score: what decides between instances.
        polish: steps of Adam from the best candidate of each instance.
        allow_infeasible: search on after a first population without finite costs.

    References:
        Zhang, Jin, Jagersand, Luo, Schuurmans (2022), A Simple Decentralized
        Cross-Entropy Method, 2212.08235. Restart, portfolio and coloured starts are
        derived.

    Example:
        >>> import torch
        >>> wave = lambda x: (x.sin() + (10 / 3 * x).sin()).sum(-1)
        >>> search = DecentCEM(num_instances=10, pop_size=300, max_iters=10)
        >>> found = search.minimize(wave, lower=torch.tensor([-7.5]), upper=7.5)
        >>> bool((found.x - 5.1457).abs() < 0.02), found.best_fun.shape
        (True, torch.Size([10]))
    """

    @known_options
    def __init__(
        self,
        num_instances: int = 10,
        *,
        layout: Layout = "portfolio",
        restart: bool = True,
        init: Init | Tensor = "random",
        horizon: int | None = None,
        pop_size: int = 500,
        elite_frac: float = 0.1,
        alpha: float = 0.1,
        min_var: float = 1e-3,
        max_iters: int = 100,
        trunc: float = 2.0,
        variance_correction: bool = False,
        score: Score = "best_sample",
        polish: int | None = None,
        allow_infeasible: bool = False,
    ) -> None:
        check_count("num_instances", num_instances)
        check_choice("layout", layout, LAYOUTS)
        check_count("horizon", horizon)
        if not isinstance(init, Tensor):
            check_choice("init", init, INITS)
            coloured = init == "coloured"
            check((horizon is not None) == coloured, "horizon", horizon, _WITH_COLOUR)
        self.num_instances, self.layout = num_instances, layout
        self.init, self.horizon = init, horizon
        self._configure(locals())
