"""The result of every inference: draws, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.density import Target
from pyro_geo.errors import ModelError, ShapeError, UnsupportedError
from pyro_geo.io.names import SAMPLE_DIMS
from pyro_geo.results._groups import arrays, check_prior, lazy_groups, make_groups
from pyro_geo.results._picking import pick, pick_rows
from pyro_geo.results._tables import describe, diagnose, tabulate
from pyro_geo.results.draws import Draws
from pyro_geo.results.predictive import PredictiveModel, Replicator
from pyro_geo.results.weights import Weights, equal_rows

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.io.reports import Curves

__all__ = ["PosteriorDraws"]


class PosteriorDraws:
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

    _target: Target | None = None
    _draws: Draws | None = None
    _weights: Weights | None = None
    superchains: int | None = None
    run_seed: int = 0

    def __init__(
        self,
        target: Target | None = None,
        draws: Draws | None = None,
        *,
        log_weights: Tensor | None = None,
        sample_dims: Sequence[str] = SAMPLE_DIMS,
        attributes: Mapping[str, str | int | float] | None = None,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
        chain_name: str = "chain",
        superchains: int | None = None,
        seed: int = 0,
        predictive: PredictiveModel | None = None,
    ) -> None:
        self.sample_dims = tuple(sample_dims)
        expected = "('chain', 'draw', ...)"
        leads = self.sample_dims[:2] == SAMPLE_DIMS
        check(leads, "sample_dims", self.sample_dims, expected, error=ShapeError)
        self._target, self._draws = target, draws
        self._weights = None
        if log_weights is not None:
            self._weights = Weights(log_weights, self._finished())
        self._attributes = dict(attributes or {})
        self._notes = list(notes)
        self._citations = tuple(citations)
        self.chain_name = chain_name
        self.superchains = superchains
        self.run_seed = seed
        self._predictive = predictive

    # -- facts ----------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, str | int | float]:
        """Facts of the run, texts and numbers by name."""
        return dict(self._attributes)

    @property
    def notes(self) -> list[str]:
        """What the run had to say: warnings and steps down the ladder."""
        return list(dict.fromkeys(self._notes))

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the works behind the result."""
        return self._citations

    def __repr__(self) -> str:
        """Say how many draws of which sites there are."""
        kind = type(self).__name__
        if self._draws is None:
            return f"{kind}(no draws yet)"
        shown = describe(self._draws, self.chain_name, self._weights is not None)
        return f"{kind}({shown})"

    # -- draws ----------------------------------------------------------------------

    @property
    def target(self) -> Target:
        """Density that was sampled."""
        self._finished()
        assert self._target is not None
        return self._target

    @property
    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, dim)`."""
        return self._finished().positions()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Statistics of every draw, name to `(chains, draws)`."""
        return dict(self._finished().stats())

    def get_samples(
        self,
        num_samples: int | None = None,
        group_by_chain: bool = False,
        *,
        resample: bool = True,
    ) -> dict[str, Tensor]:
        """Return draws in the space the model sees.

        Draws with weights are resampled to equal ones: as many as there are, by the
        run's seed, as one chain.

        Args:
            num_samples: draw this many at random, with replacement and with the
                weights, instead of all; uses torch's global generator, as Pyro does.
            group_by_chain: keep the chains apart.
            resample: False gives draws with weights as they are, in the order of
                :attr:`log_weights`. Draws without weights are the same either way.

        Returns:
            Site to `(chains * draws, *shape)`, or `(chains, draws, *shape)`. Where a
            run kept some sites only, these.
        """
        draws, weights = self._finished(), self._weights if resample else None
        good = num_samples is None or resample or self._weights is None
        check(good, "num_samples", num_samples, "None beside resample=False")
        return pick(draws, weights, num_samples, group_by_chain, self.run_seed)

    # -- weights --------------------------------------------------------------------

    @property
    def log_weights(self) -> Tensor | None:
        """Logarithms of the weights, `(chains * draws,)`; None where all are equal."""
        return None if self._weights is None else self._weights.flat

    @property
    def log_z(self) -> float:
        """Logarithm of the sum of the weights: of the normaliser, where they say it."""
        return self._weighted().log_z

    @property
    def ess(self) -> float:
        """Effective number of chains by their weights."""
        return self._weighted().ess

    @property
    def khat(self) -> float:
        """Tail of the chains' weights; unreliable above 0.7, NaN for fewer than 30."""
        return self._weighted().khat

    def resample(
        self, num_draws: int | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw with the weights, systematically: draws of equal weight.

        Args:
            num_draws: how many; as many as there are if None.
            seed: any integer, the run's own if None; torch's global state is left
                alone.

        Returns:
            Site to `(num_draws, *shape)`; copies of one draw stand side by side.
        """
        draws = self._finished()
        weights = self.log_weights
        if weights is None:
            weights = torch.zeros(draws.num_chains * draws.num_draws)
        return pick_rows(draws, equal_rows(weights, self._seed(seed), num_draws))

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

    def diagnostics(self) -> dict[str, Any]:
        """Return effective sizes, R-hat and what went wrong by chain.

        Returns:
            For each site a dictionary with `n_eff` and `r_hat` (and `nested_r_hat`
            where chains form superchains) shaped like the site. Under `"divergences"`
            the divergent draws and under `"acceptance rate"` the mean rate of each
            chain, as Pyro gives them, where the kernel has such statistics. Where
            draws have weights, `"ess"`, `"khat"` and `"log_z"`.
        """
        found = diagnose(self.summary(), self._finished())
        if self._weights is not None:
            found |= {"ess": self.ess, "khat": self.khat, "log_z": self.log_z}
        return found

    # -- predictions ----------------------------------------------------------------

    def posterior_predictive(
        self, *args: Any, seed: int | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Draw new data from the model, once at each draw of its latent sites.

        Observed sites are drawn as if they were not observed, at the arguments of the
        run or at others, such as new covariates. It is what `pyro.infer.Predictive`
        does, for all draws at once where the model's samplers can be mapped, and with
        randomness of its own: torch's generators are left alone. Draws with weights
        are resampled first, as :meth:`get_samples` does.

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
            >>> import pyro, pyro.distributions as dist
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

    # -- handing on -----------------------------------------------------------------

    def to_arviz(
        self,
        log_likelihood: bool = True,
        *,
        prior: int = 0,
        posterior_predictive: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Hand the draws to ArviZ.

        Args:
            log_likelihood: also the likelihood of each datum at each draw, which
                costs one evaluation of the model per draw.
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
            groups["particles"] = arrays(self._weights.particles(self._finished()))
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
        )

    def report(
        self,
        path: str | Path,
        tables: Mapping[str, Any] | None = None,
        curves: Sequence[Curves] = (),
    ) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.
            curves: further pictures of lines.

        Returns:
            The path.
        """
        from pyro_geo.io.reports import write_report

        facts = {**self.attributes, **self._weight_facts()}
        for name in ("notes", "citation"):  # notes are shown apart, BibTeX is too long
            facts.pop(name, None)
        kind, model = facts.get("kernel", "Draws"), facts.get("model", "a posterior")
        return write_report(
            self.to_arviz(log_likelihood=False),
            path,
            title=f"{kind} on {model}",
            facts={name: str(value) for name, value in facts.items()},
            notes=self.notes,
            tables=dict(tables or {}),
            curves=curves,
            chain_name=self.chain_name,
        )

    # -- inside ---------------------------------------------------------------------

    def _finished(self) -> Draws:
        if self._draws is None:
            raise ModelError(
                "there are no draws",
                where=type(self).__name__,
                found="no finished block",
                expected="a run",
                todo="call run first",
            )
        return self._draws

    def _weighted(self) -> Weights:
        if self._weights is None:
            raise UnsupportedError(
                "the draws have no weights",
                where=type(self).__name__,
                found="draws of equal weight",
                expected="weighted particles, of GibbsPosterior say",
                todo="Ask summary() for effective sizes and R-hat.",
            )
        return self._weights

    def _equal_draws(self) -> Draws:
        """The draws, resampled to one chain of equal weights where they have others."""
        if self._weights is None:
            return self._finished()
        return self._weights.equal(self.target, self._finished(), self.run_seed)

    def _weight_facts(self) -> dict[str, float]:
        return {} if self._weights is None else self._weights.facts

    def _grouping(self) -> dict[str, int]:
        return {} if self.superchains is None else {"superchains": self.superchains}

    def _seed(self, seed: int | None) -> int:
        """Take the run's own seed for predictive draws where none is given."""
        return int(self.run_seed if seed is None else seed)

    def _replicator(self, seed: int | None) -> Replicator:
        return Replicator(self.target, self._seed(seed), self._predictive)
