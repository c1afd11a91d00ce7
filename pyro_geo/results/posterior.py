"""The result of every inference: draws with tables, predictions and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_geo.citations import citation
from pyro_geo.results._groups import (
    LogLikelihood,
    arrays,
    check_likelihood,
    check_prior,
    lazy_groups,
    make_groups,
)
from pyro_geo.results._notebook import as_html
from pyro_geo.results._tables import diagnose, tabulate
from pyro_geo.results.predictive import Replicator
from pyro_geo.results.samples import Samples
from pyro_geo.results.series import Series

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.io.modes import ModeMarks
    from pyro_geo.io.reports import Bars, Curves, Images

__all__ = ["PosteriorDraws"]


class PosteriorDraws(Samples):
    r"""Draws from a posterior, with or without weights.

    Every inference returns this: `MCMC` is one, and so is the
    :class:`~pyro_geo.infer.WeightedPosterior` of a Gibbs posterior. Where draws have
    weights, every accessor honours them: an expectation is
    :math:`\sum_i w_i f(\theta_i) / \sum_i w_i`, and where draws of equal weight are
    asked for they are resampled, systematically and by the run's seed.

    Args:
        target: density that was sampled; None until there are draws.
        draws: where they are; None until there are any.
        log_weights: logarithms of the weights, `(chains, draws)`; equal ones if None.
        sample_dims: names of the sample axes; `chain` and `draw` come first.
        attributes: facts of the run, texts and numbers.
        notes: warnings of the run.
        citations: keys of the works behind the result.
        chain_name: what a chain is called.
        superchains: number of groups of consecutive chains that started at one point.
        seed: what resampled and predictive draws are a function of.
        predictive: model to predict with, in place of the target's own.

    Attributes:
        superchains: as given.
        run_seed: the seed.

    Raises:
        ShapeError: sample axes do not begin with `chain` and `draw`.

    Example:
        >>> import torch
        >>> from pyro_geo import Target
        >>> target = Target.from_potential(lambda q: 0.5 * (q * q).sum(), 1)
        >>> from pyro_geo.results import MemoryDraws
        >>> draws = MemoryDraws(target, torch.tensor([[[0.0]], [[3.0]]]))
        >>> weights = torch.tensor([[0.75], [0.25]]).log()
        >>> result = PosteriorDraws(target, draws, log_weights=weights)
        >>> float(result.summary().loc["q[0]", "mean"])
        0.75
        >>> result
        PosteriorDraws(2 chains, 1 draw of each, with weights; q (1,))
    """

    # -- tables ---------------------------------------------------------------------

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Return ArviZ's table of means, intervals, effective sizes and R-hat.

        Args:
            prob: probability of the interval.

        Returns:
            One row per scalar. Where chains form superchains, with a column
            `nested_r_hat`: R-hat of many short chains
            (:func:`~pyro_geo.io.arviz.nested_r_hat`). Draws with weights have the
            same columns, computed with the weights, R-hat NaN, and `khat`
            (:func:`~pyro_geo.io.arviz.summary` says how).
        """
        return tabulate(
            self.target,
            self._finished(),
            self._weights,
            prob,
            facts={**self._grouping(), **self._weight_facts()},
            sample_dims=self.sample_dims,
        )

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return as_html(
            repr(self), self._draws, self.summary, self.notes, self._settings
        )

    def diagnostics(self) -> dict[str, Any]:
        """Return effective sizes, R-hat and what went wrong by chain.

        Returns:
            For each site a dictionary with `n_eff` and `r_hat` (and `nested_r_hat`
            where chains form superchains) shaped like the site. Under `"divergences"`
            the divergent draws and under `"acceptance rate"` the mean rate of each
            chain, as Pyro gives them, where the kernel has such statistics. Where
            draws have weights, `"ess"`, `"khat"` and `"log_z"`.
        """
        result = diagnose(self.summary(), self._finished())
        if self._weights is not None:
            result |= {"ess": self.ess, "khat": self.khat, "log_z": self.log_z}
        return result

    # -- predictions ----------------------------------------------------------------

    def posterior_predictive(
        self, *args: Any, seed: int | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Draw new data from the model, once at each draw of its latent sites.

        Observed sites are drawn as if they were not observed, at the arguments of the
        run or at others, such as new covariates. Discrete latents that were summed out
        are drawn from their posterior, given the draw and the data of the run; under
        other arguments they keep these values where they have the same shape, as all
        latent sites do, and are drawn afresh elsewhere. It is what
        `pyro.infer.Predictive` does, for all draws at once where the model's samplers
        can be mapped, and with randomness of its own: torch's generators are left
        alone. Draws with weights are resampled first, as :meth:`get_samples` does.

        Args:
            *args: arguments of the model; those of the run if there are none.
            seed: what the draws are a function of; the run's own if None.
            **kwargs: keyword arguments of the model.

        Returns:
            Observed and deterministic sites (and discrete ones that were summed out),
            site to `(chains, draws, *shape)`. Without a Pyro model it raises
            :class:`~pyro_geo.errors.UnsupportedError`; where a latent site would
            change its shape, :class:`~pyro_geo.errors.ShapeError`.

        Warns:
            FallbackWarning: a sampler cannot be mapped, so draws are made one at a
                time.

        Example:
            >>> import pyro, pyro.distributions as dist, torch
            >>> from pyro_geo.infer import DIMS, MCMC
            >>> def model(x, y):
            ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            ...     with pyro.plate("data", len(x)):
            ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
            >>> x, y = torch.eye(3)[:2], torch.tensor([1.0, -1.0])
            >>> fit = MCMC(DIMS(model), num_samples=8, seed=1, progress_bar=False)
            >>> fit.run(x, y).posterior_predictive()["y"].shape
            torch.Size([1, 8, 2])
            >>> fit.posterior_predictive(torch.eye(3), None)["y"].shape
            torch.Size([1, 8, 3])
        """
        q = self._equal_draws().positions()
        replicator = self._replicator(seed)
        sites = replicator.posterior(q.flatten(0, -2), args, kwargs)
        self._notes = [*self._notes, *replicator.notes]
        return {name: v.unflatten(0, q.shape[:-1]) for name, v in sites.items()}

    # -- ArviZ and reports ------------------------------------------------------------

    def to_arviz(
        self,
        log_likelihood: LogLikelihood = True,
        *,
        prior: int = 0,
        posterior_predictive: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Hand the draws to ArviZ.

        Args:
            log_likelihood: also the likelihood of each datum at each draw, which
                costs one evaluation of the model per draw. Where data are sequences,
                True or `"step"` gives that of each step, such as a trial, and
                `"datum"` that of each sequence whole, such as a subject.
            prior: also this many draws of the model's sites and data from the prior.
            posterior_predictive: also data drawn from the model at each draw
                (:meth:`posterior_predictive`).
            seed: what prior and predictive draws are a function of; the run's own if
                None.

        Returns:
            `InferenceData` with ArviZ 0.23, a `DataTree` with 1.x: posterior (with
            deterministic sites), sample_stats, log_likelihood, posterior_predictive,
            prior, prior_predictive, observed_data; axes named by plates. Draws with
            weights are resampled to one chain of equal ones for these groups, and
            stand as they are, with `log_weights`, in the group `particles`. Prior and
            predictive draws of what is not a Pyro model, and predictive ones of a
            model without data, raise :class:`~pyro_geo.errors.UnsupportedError`. Draws
            that live in the store alone are opened there and not loaded.

        Warns:
            FallbackWarning: the likelihood is left out, because draws live in the
                store alone or sites were not kept.
        """
        from pyro_geo.io.arviz import to_arviz

        check_prior(prior)
        check_likelihood(log_likelihood)
        drawn = bool(prior or posterior_predictive)
        folder = self._finished().folder
        if folder is not None:
            return lazy_groups(folder, drawn, log_likelihood)
        replicator = self._replicator(seed) if drawn else None
        groups = make_groups(
            self.target,
            self._equal_draws(),
            replicator,
            log_likelihood=log_likelihood,
            prior=prior,
            posterior_predictive=posterior_predictive,
        )
        if replicator is not None:
            self._notes = [*self._notes, *replicator.notes]
        if self._weights is not None:
            draws = self._finished()
            groups["particles"] = arrays(draws.sites(list(draws.shapes)))
        return to_arviz(
            groups,
            dims=self.target.dims,
            coords=self.target.coords,
            attrs={
                **self.attributes,
                **self._grouping(),
                **self._weight_facts(),
                **({"predictive_seed": self._seed(seed)} if drawn else {}),
            },
            sample_dims=self.sample_dims,
            log_weights=None if self._weights is None else self._weights.array,
        )

    def report(
        self,
        path: str | Path,
        tables: Mapping[str, Any] | None = None,
        curves: Sequence[Curves] = (),
        *,
        bars: Sequence[Bars] = (),
        images: Sequence[Images] = (),
        series: Series | None = None,
    ) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.
            curves: further pictures of lines.
            bars: further pictures of bars.
            images: small pictures side by side.
            series: states over time that the draws imply, to be pictured, such as an
                :class:`~pyro_geo.filtering.HGFSeries`.

        Returns:
            The path.
        """
        from pyro_geo.io.reports import page_title, write_report

        self._finished()
        facts: dict[str, Any] = {**self.attributes, **self._weight_facts()}
        facts.pop("notes", None)  # shown apart
        return write_report(
            self.to_arviz(log_likelihood=False),
            path,
            title=page_title(
                str(facts.get("kernel", "Draws")),
                str(facts.get("model", "")),
                list(self._finished().shapes),
            ),
            citation=str(facts.pop("citation", "") or citation(self)),
            facts=facts,
            notes=self.notes,
            tables=tables,
            curves=curves,
            bars=bars,
            images=images,
            series=None if series is None else series.to_arviz(),
            chain_name=self.chain_name,
            modes=self._mode_marks(),
        )

    # -- inside ---------------------------------------------------------------------

    def _mode_marks(self) -> ModeMarks | None:
        """Where modes are and chains started, if chains started in known modes."""
        return None

    def _weight_facts(self) -> dict[str, float]:
        return {} if self._weights is None else self._weights.facts

    def _grouping(self) -> dict[str, int]:
        return {} if self.superchains is None else {"superchains": self.superchains}

    def _replicator(self, seed: int | None) -> Replicator:
        return Replicator(self.target, self._seed(seed), self._predictive)
