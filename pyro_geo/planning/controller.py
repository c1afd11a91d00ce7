r"""The online stage: act on what is known now, and learn from what happens."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check, check_count
from pyro_geo.errors import ParameterCoverageWarning
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.planning._some_draws import certain, reduced, rows_of
from pyro_geo.planning.hmc_posterior import MCMCPosterior
from pyro_geo.planning.library import OfflineLibrary
from pyro_geo.planning.lookahead import lookahead_values
from pyro_geo.planning.offline import OfflinePlanner
from pyro_geo.planning.parameter_gp import ParameterGP
from pyro_geo.planning.posteriors import Knowledge, ParameterPosterior
from pyro_geo.planning.records import ControlRecord, StepRecord
from pyro_geo.planning.selectors import (
    MMRL,
    Select,
    make_selector,
    mean_rule,
    most_probable_rule,
    prior_mean_rule,
    summarise,
)

if TYPE_CHECKING:
    from pyro_geo.io.arviz import ArvizData
    from pyro_geo.results import PosteriorDraws

__all__ = ["BayesController", "Decision"]

_LEAST_COVERAGE = 0.5


class Decision(NamedTuple):
    """An action, and what is known of all of them.

    Attributes:
        action: the action, as the plant takes it; its number where there is no plant.
        mean: expected return of each action under the posterior, `(A,)`.
        sd: standard deviation of the error of that expectation, `(A,)`.
        p_best: probability that each action is the best, `(A,)`.
        coverage: share of the variance of the values over parameters that the solved
            draws explain where the posterior is; 1 where nothing is interpolated.
        number: of the action.
    """

    action: Tensor
    mean: Tensor
    sd: Tensor
    p_best: Tensor
    coverage: float
    number: int


class _Values(NamedTuple):
    """Action values at the draws of the posterior."""

    at_draws: Tensor  # (M, A)
    log_weights: Tensor  # (M,)
    mean: Tensor  # (A,)
    sd: Tensor  # (A,)
    errors: Tensor  # (M, A), standard deviations
    coverage: float


class BayesController(Made):
    r"""Choose actions by their expected return under the posterior of the dynamics.

    The library holds the values :math:`Q_{\theta_i}` of draws of the prior. A Gaussian
    process over parameters carries them to draws of the posterior
    (:class:`~pyro_geo.planning.ParameterGP`); where these are the draws of the library
    themselves, as in an enumeration, nothing is interpolated. Where the state is
    hidden, values are averaged over its belief.

    `select="mean"` is the rule of the paper. It never pays for information, so where
    an action must be tried to be learned, `"ucb"`, `"thompson"` or `"lookahead"` does
    better. `"lookahead"` reweights the same draws by each possible next state:

    .. math:: r + \gamma\, E_{s'} \max_{a'} E_{\theta \mid D, s'} Q_\theta(s', a')

    Args:
        library: of the offline stage.
        posterior: learns the parameters.
        select: `"mean"`, `"thompson"`, `"lookahead"`, `"ucb"`, `"certainty"` (the
            values at the posterior mean of the parameters; under the most probable
            draw where the state is hidden or nothing is interpolated), `"prior"` (the
            mean under the prior, which learns nothing), or a rule of
            :mod:`~pyro_geo.planning.selectors`, or your own. Rules see a resample
            of the posterior where it has more than `num_draws` draws.
        width: of the upper bound, for `"ucb"`.
        num_draws: of the posterior that are used at most, where values are
            interpolated.
        refit_every: steps between fits of the Gaussian process.
        lookahead_samples: next states of each action.
        planner: solves further draws, for :meth:`refresh`.
        seed: of what is drawn at random.

    Attributes:
        record: what was decided and observed at each step.

    References:
        Imani, Ghoreishi and Braga-Neto (2018), Bayesian Control of Large MDPs with
        Unknown Dynamics in Data-Poor Environments, NeurIPS. Lookahead, coverage and
        refresh are derived.

    Example:
        >>> from pyro_geo.planning import FilterPosterior, TabularBackend
        >>> from pyro_geo.planning.boolean_network import melanoma
        >>> problem = melanoma(unknown=[("RET1", 3)])
        >>> backend = TabularBackend.of_network(problem, tolerance=0.1)
        >>> rules = problem.network.rule_sets().float()
        >>> library = OfflinePlanner(rules, None, backend).run()
        >>> controller = BayesController(library, FilterPosterior(problem.filter()))
        >>> decision = controller.act(torch.ones(10))
        >>> int(decision.action), decision.mean.shape
        (0, torch.Size([3]))
    """

    citations = ("bayes_control",)

    def __init__(
        self,
        library: OfflineLibrary,
        posterior: ParameterPosterior,
        select: str | Select = "mean",
        *,
        width: float = 0.5,
        num_draws: int = 512,
        refit_every: int = 10,
        lookahead_samples: int = 16,
        planner: OfflinePlanner | None = None,
        seed: int = 0,
    ) -> None:
        check_count("num_draws", num_draws)
        check_count("refit_every", refit_every)
        check_count("lookahead_samples", lookahead_samples)
        good = isinstance(posterior, ParameterPosterior)
        check(good, "posterior", type(posterior).__name__, "a ParameterPosterior")
        self.library, self.posterior, self.select = library, posterior, select
        self._ahead = select == "lookahead"
        self._certain = select in ("certainty", most_probable_rule)
        self._prior = select in ("prior", prior_mean_rule)
        self._rule = make_selector("mean" if self._ahead else select, width)
        if self._ahead:
            able = library.plant is not None and library.backend.grid is not None
            able = able and hasattr(posterior, "log_likelihood")
            words = "a library with a plant, and a posterior with a log_likelihood"
            check(able, "select", "'lookahead'", words)
        if self._prior:
            able = hasattr(posterior, "prior_knowledge")
            check(able, "select", "'prior'", "a posterior with prior_knowledge")
        if isinstance(self._rule, MMRL):
            moves = isinstance(posterior, MCMCPosterior)
            moves = moves or getattr(posterior, "fallback", None) is not None
            words = "a posterior whose draws stay the same"
            check(not moves, "select", "MMRL", words)
            size = len(posterior.knowledge().theta)
            good = bool(((self._rule.rows >= 0) & (self._rule.rows < size)).all())
            check(good, "select.rows", self._rule.rows, f"numbers of {size} draws")
        self.num_draws, self.refit_every = num_draws, refit_every
        self.lookahead_samples, self.planner = lookahead_samples, planner
        self.seed = seed
        self.record = ControlRecord()
        self._gp: ParameterGP | None = None
        self._fitted = -1
        self._warned = False

    # -- acting ---------------------------------------------------------------------

    def act(self, s: Tensor) -> Decision:
        """Choose an action.

        Args:
            s: the state, or its measurement where it is hidden.

        Returns:
            The action, with the expected return of each.
        """
        self.posterior.begin(s)
        step = len(self.record)
        with private_randomness(substream(self.seed, step)), torch.no_grad():
            every = self.posterior.knowledge()
            known = self._reduced(every)
            values = self._values(known, s)
            index = self._choose(every, known, values, s)
            noisy = values.at_draws + values.errors * torch.randn_like(values.errors)
            p_best = summarise(noisy, values.log_weights).p_best
        self._guard(values.coverage)
        action = torch.tensor(index)
        actions = self.library.backend.grid
        if actions is not None:
            action = actions[index]
        decision = Decision(
            action, values.mean, values.sd, p_best, values.coverage, index
        )
        self.record.decided(
            StepRecord(
                s=torch.as_tensor(s),
                index=index,
                mean=values.mean,
                sd=values.sd,
                p_best=p_best,
                coverage=values.coverage,
                khat=self.posterior.khat,
                ess=self.posterior.ess,
            )
        )
        return decision

    def observe(
        self, s: Tensor, a: Tensor, reward: Tensor | float, s_next: Tensor
    ) -> None:
        """Learn from a step.

        Args:
            s: the state, or its measurement.
            a: the action that was taken, as the plant takes it.
            reward: the reward.
            s_next: the state that followed, or its measurement.
        """
        self.posterior.observe(s, a, reward, s_next)
        self.record.rewarded(float(reward))

    # -- values ---------------------------------------------------------------------

    def _reduced(self, known: Knowledge) -> Knowledge:
        return known if self._matched(known) else reduced(known, self.num_draws)

    def _matched(self, known: Knowledge) -> bool:
        """Whether the draws are those of the library."""
        own = self.library.theta
        return own.shape == known.theta.shape and bool((own == known.theta).all())

    def _values(self, known: Knowledge, s: Tensor) -> _Values:
        if known.states is None:
            q, variance = self.library.q(torch.as_tensor(s)[None])
            belief = None
        else:
            q, variance = self.library.q(known.states)
            belief = known.belief
        q, variance = q.double(), variance.double()
        log_weights = known.log_weights.double()
        w = log_weights.softmax(-1)
        if self._matched(known):
            if belief is None:
                own, own_variance = q[:, 0], variance[:, 0]
            else:
                b = belief.to(q)
                own = torch.einsum("js,jsa->ja", b, q)
                own_variance = torch.einsum("js,jsa->ja", b, variance)
            mean = (w[:, None] * own).sum(0)
            sd = (w.square()[:, None] * own_variance).sum(0).sqrt()
            return _Values(own, log_weights, mean, sd, own_variance.sqrt(), 1.0)
        if belief is None:
            y, v = q[:, 0], variance[:, 0]
        else:
            marginal = (w[:, None] * belief.double()).sum(0)
            y = torch.einsum("s,nsa->na", marginal, q)
            v = torch.einsum("s,nsa->na", marginal, variance)
        gp = self._process(y.mT, v.mT)
        draws = self.library.unit(known.theta)
        found = gp.predict(y.mT, v.mT, draws, log_weights)
        return _Values(
            found.values,
            log_weights,
            found.mean,
            found.mean_variance.sqrt(),
            found.variance.sqrt(),
            float(found.explained.mean()),
        )

    def _process(self, y: Tensor, variance: Tensor) -> ParameterGP:
        step = len(self.record)
        due = self._gp is None or step - self._fitted >= self.refit_every
        if self._gp is None:
            self._gp = ParameterGP(self.library.unit(self.library.theta))
        if due:
            self._gp.fit(y, variance)
            self._fitted = step
        return self._gp

    def _choose(
        self, every: Knowledge, known: Knowledge, values: _Values, s: Tensor
    ) -> int:
        if self._ahead:
            scores = lookahead_values(
                self.library,
                known,
                torch.as_tensor(s),
                gp=None if self._matched(known) else self._gp,
                log_likelihood=getattr(self.posterior, "log_likelihood"),  # noqa: B009
                num_samples=self.lookahead_samples,
            )
            return int(scores.argmax())
        own = self._averaged(every)
        if own is None:
            return int(self._rule(values.at_draws, values.log_weights))
        values = self._values(own, s)
        return int(mean_rule(values.at_draws, values.log_weights))

    def _averaged(self, every: Knowledge) -> Knowledge | None:
        """Draws whose mean values decide, for rules that resampling would deceive.

        Once draws are resampled their numbers are others, and their weights are not
        the prior's. What a rule needs of prior weights, of the largest weight or of
        numbers is taken before.

        Args:
            every: all draws of the posterior.

        Returns:
            The draws; None where the rule decides on those at hand.
        """
        if self._prior:
            before = getattr(self.posterior, "prior_knowledge")()  # noqa: B009
            return self._reduced(before)
        if self._matched(every):
            return None
        if self._certain:
            return certain(every)
        return rows_of(every, self._rule.rows) if isinstance(self._rule, MMRL) else None

    def _guard(self, coverage: float) -> None:
        if coverage >= _LEAST_COVERAGE or self._warned:
            return
        self._warned = True
        warnings.warn(
            ParameterCoverageWarning(
                "few solved draws are where the posterior is",
                where=f"BayesController.act, step {len(self.record)}",
                found=f"{coverage:.0%} of the variance of the values explained",
                expected=f"at least {_LEAST_COVERAGE:.0%}",
                todo="Call refresh(n), or begin with more draws.",
            ),
            stacklevel=3,
        )

    # -- more draws -----------------------------------------------------------------

    def refresh(self, num_draws: int) -> None:
        """Solve draws of the posterior and add them to the library.

        Args:
            num_draws: how many, of different draws of the posterior where it has them.
        """
        check_count("num_draws", num_draws)
        planner = self.planner
        if planner is None:
            prior = self.library.prior
            planner = OfflinePlanner(
                self.library.theta if prior is None else prior,
                self.library.plant,
                self.library.backend,
            )
        known = self.posterior.knowledge()
        seed = substream(self.seed, len(self.record), 1)
        with private_randomness(seed):
            # the largest of perturbed log-weights are a sample without replacement
            noise = -torch.rand(len(known.theta), dtype=torch.float64).log().neg().log()
        score = known.log_weights.double() + noise
        count = min(num_draws, int((score > -math.inf).sum()))
        rows = score.topk(count).indices
        more = planner.solve(known.theta[rows].to(self.library.theta), seed=seed)
        self.library = self.library.joined(more)
        self._gp, self._fitted, self._warned = None, -1, False

    # -- results --------------------------------------------------------------------

    def draws(self) -> PosteriorDraws:
        """Give the posterior of the parameters as the result that inferences return.

        Returns:
            Draws, with weights where the posterior has them.
        """
        known = self.posterior.knowledge()
        return self.record.posterior(known, self.library.parameters, self.seed)

    def to_arviz(self) -> ArvizData:
        """Hand everything to ArviZ.

        Returns:
            The posterior of the parameters with the dims `chain` and `draw`, and in
            `constant_data` the values of each action at each step (`q_mean`, `q_sd`,
            `p_best`, with the dims `step` and `action`), the actions, the rewards, the
            coverage, and the tail and the effective size of the weights.
        """
        return self.record.to_arviz(self.draws())
