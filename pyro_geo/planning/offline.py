"""The offline stage: draw dynamics from the prior, and solve each of them."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo._showing import Made
from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.engine.session import interruption
from pyro_geo.errors import OfflinePlanningError
from pyro_geo.ops.random import substream
from pyro_geo.planning.backends import ValueBackend
from pyro_geo.planning.library import OfflineLibrary
from pyro_geo.planning.offline_run import DrawJobs, run_jobs
from pyro_geo.planning.priors import Prior

if TYPE_CHECKING:
    from pyro_geo.planning.environments import Plant

__all__ = ["OfflinePlanner"]


class OfflinePlanner(Made):
    """Draw dynamics from the prior and learn the action values of each.

    No data are needed. The draws are solved in groups; what comes out does not depend
    on how groups are spread.

    Args:
        prior: of the parameters, or a list of all their values, `(N, P)`.
        plant: the dynamics, where the backend simulates them;
            :class:`~pyro_geo.planning.Simulator` makes one of functions.
        backend: learns the values.
        num_draws: draws of the prior; not used for a list.
        group_size: draws that are solved side by side.
        groups_per_round: groups between two commits of a store.
        least_share: share of the draws that must be solved.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_geo.planning.backends import ExactValues
        >>> backend = ExactValues(lambda theta, s: theta[:, None, :] * s[:, None])
        >>> prior = Prior({"push": dist.Normal(0.0, 1.0)})
        >>> OfflinePlanner(prior, None, backend, num_draws=8).run(seed=0)
        OfflineLibrary(8 draws of push)
    """

    citations = ("bayes_control",)

    def __init__(
        self,
        prior: Prior | Tensor,
        plant: Plant | None,
        backend: ValueBackend,
        *,
        num_draws: int = 64,
        group_size: int = 16,
        groups_per_round: int = 2,
        least_share: float = 0.8,
    ) -> None:
        check_count("num_draws", num_draws)
        check_count("group_size", group_size)
        check_count("groups_per_round", groups_per_round)
        check_number("least_share", least_share, 0.0, 1.0)
        if isinstance(prior, Tensor):
            good = prior.dim() == 2 and len(prior) > 0
            check_shape("prior", prior.shape, "(N, P)", good)
            size, num_draws = prior.shape[1], len(prior)
        else:
            check(
                isinstance(prior, Prior), "prior", prior, "a Prior, or a tensor (N, P)"
            )
            size = len(prior.parameters)
        if plant is not None:
            names = plant.parameters
            check(len(names) == size, "plant", names, f"{size} parameters, as in prior")
        self.prior, self.plant, self.backend = prior, plant, backend.bound(plant)
        self.num_draws, self.group_size = num_draws, group_size
        self.groups_per_round, self.least_share = groups_per_round, least_share

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        if self.plant is not None:
            return tuple(self.plant.parameters)
        return () if isinstance(self.prior, Tensor) else self.prior.parameters

    @positional("seed")
    def run(
        self,
        *,
        seed: int = 0,
        store: str | os.PathLike[str] | None = None,
        n_jobs: int | None = None,
        progress_bar: bool = True,
    ) -> OfflineLibrary:
        """Draw and solve.

        Args:
            seed: the library is a function of it.
            store: a folder that takes each finished round, so that :meth:`resume` can
                go on with it.
            n_jobs: groups that are solved at the same time, each in a process of
                joblib's backend (loky, Dask, Ray); as the surrounding
                `joblib.parallel_config` says if None.
            progress_bar: whether to show one.

        Returns:
            The library.
        """
        return self._run(self._drawn(seed), seed, store, n_jobs, progress_bar)

    @positional("seed")
    def resume(
        self,
        store: str | os.PathLike[str],
        *,
        seed: int = 0,
        n_jobs: int | None = None,
        progress_bar: bool = True,
    ) -> OfflineLibrary:
        """Go on with a run that was cut short, or read one that is complete.

        Args:
            store: the folder of the run.
            seed: that of the run.
            n_jobs: as for :meth:`run`.
            progress_bar: whether to show one.

        Returns:
            The library, the same as if the run had never stopped.
        """
        theta = self._drawn(seed)
        return self._run(theta, seed, store, n_jobs, progress_bar, resume=True)

    @positional("seed")
    def solve(
        self, theta: Tensor, *, seed: int = 0, n_jobs: int | None = None
    ) -> OfflineLibrary:
        """Solve draws from elsewhere, of a posterior say.

        Args:
            theta: draws, `(N, P)`.
            seed: of the randomness of the backend.
            n_jobs: as for :meth:`run`.

        Returns:
            The library.
        """
        return self._run(theta, seed, None, n_jobs, False)

    def _drawn(self, seed: int) -> Tensor:
        if isinstance(self.prior, Prior):
            return self.prior.sample(self.num_draws, substream(seed, 0))
        return self.prior

    def _run(
        self,
        theta: Tensor,
        seed: int,
        store: str | os.PathLike[str] | None,
        n_jobs: int | None,
        progress_bar: bool,
        *,
        resume: bool = False,
    ) -> OfflineLibrary:
        sizes = self.group_size, self.groups_per_round
        jobs = DrawJobs(self.backend, theta, seed, *sizes)
        solved = run_jobs(
            jobs, store=store, resume=resume, n_jobs=n_jobs, progress_bar=progress_bar
        )
        if solved.interrupted:
            found, total = f"{solved.tried} draws", str(len(theta))
            warning = interruption("OfflinePlanner.run", found, total)
            warnings.warn(warning, stacklevel=4)
        self._check(solved.tried, solved.failed)
        rows = [i for i in range(solved.tried) if i not in solved.failed]
        tensors, notes = solved.learned
        return OfflineLibrary(
            theta[rows],
            {name: value[rows] for name, value in tensors.items()},
            backend=self.backend,
            diagnostics={name: value[rows] for name, value in notes.items()},
            prior=self.prior if isinstance(self.prior, Prior) else None,
            plant=self.plant,
            parameters=self.parameters,
            failed=solved.failed,
            seed=seed,
        )

    def _check(self, total: int, failed: dict[int, str]) -> None:
        alive = total - len(failed)
        if alive == 0 or alive < self.least_share * total:
            number, why = next(iter(failed.items()))
            raise OfflinePlanningError(
                "too few draws could be solved",
                where=f"OfflinePlanner, draw {number} for one",
                found=f"{alive} of {total}; {why}",
                expected=f"at least {self.least_share:.0%}",
                todo="Narrow the prior, or give the backend an easier problem.",
            )
