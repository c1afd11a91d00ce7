"""A cross-entropy search with a mixture of Gaussians."""

from __future__ import annotations

from pyro_geo.checks import check_choice, check_count, check_number, known_options
from pyro_geo.optim.cem.mixture import Mixture
from pyro_geo.optim.cem.options import Score
from pyro_geo.optim.cem.single import CEM
from pyro_geo.optim.cem.step import Gaussians

__all__ = ["CEMGMM"]


class CEMGMM(CEM):
    """A cross-entropy search with a mixture of Gaussians and one ranking.

    The baseline that :class:`DecentCEM` is held against: all components compete for
    the same elites, so that those of the best basin take over. Prefer it for large
    populations on few basins of similar depth.

    Args:
        num_components: Gaussians of the mixture.
        kappa: how much less an elite counts where the mixture is dense: its weight is
            the density to the power of `-kappa`. 0 for equal weights.
        pop_size: candidates in an iteration.
        elite_frac: share of them that is elite.
        alpha: weight of the old means, variances and weights.
        min_var: the search has converged once all variances are at most this.
        max_iters: most iterations from a start on.
        trunc: standard deviations at which draws are cut.
        variance_correction: whether to undo the shrinking by truncation.
        restart: whether to begin again after convergence.
        score: what the answer is; the centres are not evaluated, so not `"mean"`.
        polish: steps of Adam from the best candidate.
        allow_infeasible: search on after a first population without finite costs.

    References:
        Okada, Taniguchi (2019), Variational Inference MPC for Bayesian Model-based
        Reinforcement Learning, 1907.04202.

    Example:
        >>> import torch
        >>> bowl = lambda x: (x - 1).square().sum(-1)
        >>> search = CEMGMM(3, pop_size=100)
        >>> result = search.minimize(bowl, lower=-torch.ones(2) * 4, upper=4)
        >>> bool(result.fun < 1e-3), result.means.shape
        (True, torch.Size([3, 2]))
    """

    citations = ("cem_gmm", "decent_cem")

    @known_options
    def __init__(
        self,
        num_components: int,
        *,
        kappa: float = 0.5,
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
        check_count("num_components", num_components)
        check_number("kappa", kappa)
        check_choice("score", score, ("best_sample",))
        self.num_components, self.kappa = num_components, kappa
        self._configure(locals())

    @property
    def _method(self) -> Gaussians | Mixture:
        return Mixture(self.options.rates(), self.num_components, self.kappa)

    @property
    def _num_centres(self) -> int:
        return self.num_components

    @property
    def _starts_in_the_middle(self) -> bool:
        return False
