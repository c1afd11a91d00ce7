"""The controller, against sums over draws written out."""

import itertools
import warnings
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo._compat.arviz import get_group
from pyro_geo.errors import ConfigurationError, ParameterCoverageWarning
from pyro_geo.planning import (
    MMRL,
    BayesController,
    EnumeratedPosterior,
    ExactValues,
    FilterPosterior,
    GridBackend,
    MCMCPosterior,
    OfflineLibrary,
    OfflinePlanner,
    ParameterPosterior,
    Prior,
    PSISPosterior,
    TabularBackend,
    prior_mean_rule,
)
from pyro_geo.planning.boolean_network import Channel, melanoma
from pyro_geo.planning.environments import LinearQuadratic, Plant, unknown_sign
from pyro_geo.planning.selectors import Select
from pyro_geo.results import PosteriorDraws


def of_network(noisy: bool) -> tuple[OfflineLibrary, FilterPosterior, TabularBackend]:
    channel = Channel.bernoulli(0.1) if noisy else None
    problem = melanoma(unknown=[("RET1", 3), ("S100P", 0)], channel=channel)
    backend = TabularBackend.of_network(problem, tolerance=0.5)
    sets = problem.network.rule_sets().float()
    library = OfflinePlanner(sets, None, backend).run()
    return library, FilterPosterior(problem.filter()), backend


@pytest.mark.parametrize("noisy", [False, True])
def test_values_are_averaged_over_rules_and_hidden_states(noisy: bool) -> None:
    library, posterior, _ = of_network(noisy)
    controller = BayesController(library, posterior)
    y = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1, 0])
    controller.act(y)
    controller.observe(y, torch.tensor(2), -6.0, 1 - y)
    found = controller.act(1 - y)
    belief = posterior.belief
    assert belief is not None
    q = library.tensors["q"]
    own = posterior.filter.action_values(belief, q)
    expected = (belief.log_weights.exp()[:, None] * own).sum(0)
    torch.testing.assert_close(found.mean.float(), expected, atol=1e-3, rtol=1e-5)
    assert int(found.action) == int(expected.argmax())
    assert found.coverage == 1.0
    assert float(found.p_best.sum()) == pytest.approx(1.0)


def test_hidden_states_are_averaged_where_values_are_interpolated() -> None:
    library, posterior, backend = of_network(True)
    some = OfflinePlanner(library.theta[:3], None, backend).run()
    y = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1, 0])
    found = BayesController(some, posterior).act(y)
    known = posterior.knowledge()
    assert known.belief is not None
    state = known.log_weights.exp() @ known.belief
    values = torch.einsum("s,nsa->na", state, some.tensors["q"])
    low, high = values.amin(0), values.amax(0)
    assert bool(((found.mean > low - 1) & (found.mean < high + 1)).all())
    assert 0.5 < found.coverage < 1


def law(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    mean = theta[..., 0] * s[..., 0] + theta[..., 1] * a[..., 0]
    return dist.Normal(mean, 0.1).log_prob(s_next[..., 0])


def quadratic(plant: Plant) -> ExactValues:
    def values(theta: Tensor, s: Tensor) -> Tensor:
        a = plant.actions
        assert a is not None
        quiet = torch.zeros(1, dtype=torch.float64)
        ahead = plant.simulate(theta[:, None, None], s[:, None], a, quiet)
        return plant.reward(s[:, None], a, ahead) - 2 * ahead[..., 0].square()

    return ExactValues(values)


@pytest.fixture
def plant() -> Plant:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    made = unknown_sign()
    torch.set_default_dtype(default)
    return made


@pytest.fixture
def prior() -> Prior:
    keep = dist.Uniform(torch.tensor(0.8), 1.1)
    return Prior({"keep": keep, "push": dist.Uniform(torch.tensor(-1.2), 1.2)})


def test_interpolated_values_are_near_exact_ones(plant: Plant, prior: Prior) -> None:
    backend = quadratic(plant)
    library = OfflinePlanner(prior, plant, backend, num_draws=48).run()
    posterior = PSISPosterior(prior, law, num_draws=1000)
    controller = BayesController(library, posterior, num_draws=1000)
    s = torch.tensor([1.5], dtype=torch.float64)
    decision = controller.act(s)
    every = backend.learn(posterior.theta, [])
    exact = backend.q(every.tensors, s[None])[0][:, 0].mean(0)
    error = (decision.mean - exact).abs()
    assert float(error.max()) < 0.05
    assert decision.coverage > 0.9
    # unknown sign, prior mean zero: no action pays
    assert float(decision.action) == 0.0


def observed(plant: Plant, posterior: ParameterPosterior, s: Tensor) -> None:
    for a in (1.0, -1.0, 2.0):
        action = torch.tensor([a], dtype=torch.float64)
        s_next = 0.95 * s - 0.7 * action
        posterior.observe(s, action, float(plant.reward(s, action, s_next)), s_next)


@pytest.mark.parametrize("select", ["prior", prior_mean_rule])
def test_the_rule_of_the_prior_learns_nothing(
    plant: Plant, prior: Prior, select: str | Select
) -> None:
    library = OfflinePlanner(prior, plant, quadratic(plant), num_draws=32).run()
    s = torch.tensor([1.0], dtype=torch.float64)
    for num_draws in (128, 2000):  # fewer than the posterior has, and more
        posterior = PSISPosterior(prior, law, num_draws=1000)
        rules = [
            BayesController(library, posterior, rule, num_draws=num_draws)
            for rule in ("mean", select)
        ]
        observed(plant, posterior, s)
        mean, before = (rule.act(s) for rule in rules)
        # the posterior knows the sign by now; under the prior no action pays
        assert float(mean.action) > 0
        assert float(before.action) == 0.0
        assert float(before.mean[mean.number]) > float(before.mean[before.number])
    # weights of the prior that are not equal count
    theta = torch.tensor([[0.95, -0.7], [0.95, 0.7]], dtype=torch.float64)
    own = OfflinePlanner(theta, plant, quadratic(plant)).run()
    weights = torch.tensor([0.1, 0.9]).log()
    some = EnumeratedPosterior(theta, law, weights)
    observed(plant, some, s)
    assert float(BayesController(own, some, select).act(s).action) < 0


def test_rules_see_what_resampling_would_hide(plant: Plant, prior: Prior) -> None:
    library = OfflinePlanner(prior, plant, quadratic(plant), num_draws=32).run()
    s = torch.tensor([1.0], dtype=torch.float64)
    # numbers of draws are those of the posterior: two that push the same way
    posterior = PSISPosterior(prior, law, num_draws=1000)
    rows = (posterior.theta[:, 1] > 1.0).nonzero()[:2, 0]
    for num_draws in (128, 2000):
        rule = BayesController(library, posterior, MMRL(rows), num_draws=num_draws)
        assert float(rule.act(s).action) < 0
    # more solved draws than are used where values are interpolated: none is here
    theta = prior.sample(64, 5)
    own = OfflinePlanner(theta, plant, quadratic(plant)).run()
    for select in ("mean", "certainty"):
        found = [
            BayesController(own, every, select, num_draws=number).act(s)
            for number in (16, 64)
            for every in [EnumeratedPosterior(theta, law, theta[:, 1])]
        ]
        assert found[0].coverage == 1.0
        assert found[0].number == found[1].number
        torch.testing.assert_close(found[0].mean, found[1].mean, atol=0, rtol=0)


def test_the_most_probable_draw_is_found_behind_a_belief() -> None:
    library, posterior, backend = of_network(True)
    posterior.filter.log_prior[:] = torch.tensor([0.0, 0.0, 0.0, 2.0]).log_softmax(0)
    some = OfflinePlanner(library.theta[[0, 1, 3]], None, backend).run()
    y = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1, 0])
    found = BayesController(some, posterior, "certainty", num_draws=2).act(y)
    known = posterior.knowledge()
    assert known.belief is not None
    exact = torch.einsum("s,sa->a", known.belief[3], library.tensors["q"][3])
    assert found.number == int(exact.argmax())


@pytest.mark.parametrize(
    "select", ["mean", "thompson", "ucb", "lookahead", "certainty"]
)
def test_all_rules_regulate_once_the_sign_is_known(
    plant: Plant, prior: Prior, select: str
) -> None:
    library = OfflinePlanner(prior, plant, quadratic(plant), num_draws=32).run()
    posterior = PSISPosterior(prior, law, num_draws=1000)
    controller = BayesController(library, posterior, select, num_draws=128, seed=1)
    s = torch.tensor([1.0], dtype=torch.float64)
    observed(plant, posterior, s)
    assert float(controller.act(s).action) > 0


def test_actions_that_are_not_listed_are_those_of_the_grid() -> None:
    one = torch.eye(1, dtype=torch.float64)
    costs: Any = {"state_cost": one, "action_cost": 0.1 * one, "noise": 0.1 * one}
    box = LinearQuadratic(0.9 * one, 0.5 * one, limit=2.0, **costs)
    theta = torch.tensor([[0.9, 0.5], [0.8, 0.6]], dtype=torch.float64)
    backend = GridBackend([torch.linspace(-4, 4, 41)], num_actions=5, tolerance=0.1)
    library = OfflinePlanner(theta, box, backend).run()
    s = torch.tensor([2.0], dtype=torch.float64)
    for select in ("mean", "lookahead"):
        posterior = EnumeratedPosterior(theta, law)
        decision = BayesController(library, posterior, select).act(s)
        assert decision.action.tolist() == [[-2.0], [-1.0]][decision.number]


def brute_lookahead(library: OfflineLibrary, posterior: EnumeratedPosterior) -> Tensor:
    """One step ahead over all next states of two arms, by sums."""
    w = posterior.knowledge().log_weights.exp()
    scores = []
    for a in range(2):
        chance = library.theta[:, a]  # of the state 1
        total = 0.0
        for s_next, p in ((1, chance), (0, 1 - chance)):
            after = w * p / (w * p).sum()
            mean = (after[:, None] * library.q(torch.tensor([s_next]))[0][:, 0]).sum(0)
            total += float((w * p).sum()) * (s_next + 0.9 * float(mean.max()))
        scores.append(total)
    return torch.tensor(scores)


class Arms(Plant):
    """Two arms: the next state is one with the arm's probability."""

    parameters = ("first", "second")
    state_dim, action_dim, noise_dim = 1, 0, 1
    actions = torch.arange(2)

    @property
    def theta(self) -> Tensor:
        return torch.tensor([0.5, 0.5], dtype=torch.float64)

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        own = torch.where(a == 0, theta[..., 0], theta[..., 1])
        return (noise[..., 0] < own).double()

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        return s_next

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.zeros(shape)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(*shape, 1, generator=generator, dtype=torch.float64)


def arm_law(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    own = torch.where(a == 0, theta[..., 0], theta[..., 1])
    return torch.where(s_next > 0.5, own, 1 - own).log()


def test_lookahead_pays_for_what_it_will_learn() -> None:
    # the first arm is known, the second may be good or bad
    theta = torch.tensor([[0.5, 0.95], [0.5, 0.01]], dtype=torch.float64)

    def values(theta: Tensor, s: Tensor) -> Tensor:
        return (theta + 9 * theta.amax(-1, keepdim=True))[:, None].expand(-1, len(s), 2)

    backend = ExactValues(values, discount=0.9)
    library = OfflinePlanner(theta, Arms(), backend).run()
    posterior = EnumeratedPosterior(theta, arm_law)
    s = torch.tensor(0.0, dtype=torch.float64)
    mean = BayesController(library, posterior).act(s)
    ahead = BayesController(
        library, posterior, "lookahead", lookahead_samples=4000
    ).act(s)
    assert mean.number == 0
    assert ahead.number == 1
    scores = brute_lookahead(library, posterior)
    assert int(scores.argmax()) == 1
    from pyro_geo.planning.lookahead import lookahead_values

    torch.manual_seed(0)
    found = lookahead_values(
        library,
        posterior.knowledge(),
        s,
        gp=None,
        log_likelihood=arm_law,
        num_samples=4000,
    )
    np.testing.assert_allclose(found, scores, atol=0.1)


def test_the_guard_warns_once_and_more_draws_help(plant: Plant, prior: Prior) -> None:
    def narrow(theta: Tensor, s: Tensor) -> Tensor:
        return (60 * theta[:, 1:2, None]).sin().expand(-1, len(s), 2)

    planner = OfflinePlanner(prior, None, ExactValues(narrow))
    library = planner.solve(prior.sample(12, 0))
    posterior = PSISPosterior(prior, law, num_draws=1000)
    controller = BayesController(library, posterior)
    s = torch.tensor([1.0], dtype=torch.float64)
    with pytest.warns(ParameterCoverageWarning, match="few solved draws"):
        before = controller.act(s)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controller.act(s)
    action = torch.tensor([2.0], dtype=torch.float64)
    for _ in range(3):
        controller.observe(s, action, 0.0, 0.95 * s - 0.7 * action)
    controller.refresh(20)
    assert len(controller.library) == 32
    after = controller.act(s)
    assert after.coverage > before.coverage + 0.1


def test_records_go_to_arviz(plant: Plant, prior: Prior) -> None:
    library = OfflinePlanner(prior, plant, quadratic(plant), num_draws=24).run()
    posterior = PSISPosterior(prior, law, num_draws=400)
    controller = BayesController(library, posterior)
    s = torch.tensor([1.0], dtype=torch.float64)
    for _ in range(3):
        decision = controller.act(s)
        s_next = plant.simulate(
            plant.theta, s, decision.action, torch.zeros(1).double()
        )
        reward = plant.reward(s, decision.action, s_next)
        controller.observe(s, decision.action, reward, s_next)
        s = s_next
    draws = controller.draws()
    assert isinstance(draws, PosteriorDraws)
    known = posterior.knowledge()
    mean = float(known.log_weights.exp() @ known.theta[:, 1])
    assert float(draws.summary().loc["B[0,0]", "mean"]) == pytest.approx(mean, abs=0.01)
    idata = controller.to_arviz()
    values = get_group(idata, "posterior")
    steps = get_group(idata, "constant_data")
    assert values is not None
    assert steps is not None
    assert values["A[0,0]"].dims == ("chain", "draw")
    assert steps["q_mean"].dims == steps["q_sd"].dims == ("step", "action")
    assert steps["khat"].shape == steps["ess"].shape == (3,)
    assert len(controller.record.table()) == 3


def test_the_same_seed_gives_the_same_actions(plant: Plant, prior: Prior) -> None:
    library = OfflinePlanner(prior, plant, quadratic(plant), num_draws=8).run()
    s = torch.tensor([1.0], dtype=torch.float64)
    state = torch.get_rng_state()

    def numbers(seed: int) -> list[int]:
        posterior = PSISPosterior(prior, law, num_draws=100)
        controller = BayesController(library, posterior, "thompson", seed=seed)
        return [controller.act(s).number for _ in range(4)]

    assert numbers(1) == numbers(1)
    assert len({tuple(numbers(seed)) for seed in range(3)}) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_arguments_are_refused(plant: Plant, prior: Prior) -> None:
    library, posterior, backend = of_network(False)
    with pytest.raises(ConfigurationError, match="lookahead"):
        BayesController(library, posterior, "lookahead")
    with pytest.raises(ConfigurationError, match="select"):
        BayesController(library, posterior, "greedy")
    with pytest.raises(ConfigurationError, match="rows"):
        BayesController(library, posterior, MMRL(torch.tensor([0, 4])))
    chains = MCMCPosterior(prior, law, num_draws=8, num_chains=4)
    with pytest.raises(ConfigurationError, match="draws stay the same"):
        BayesController(library, chains, MMRL(torch.tensor([0, 1])))
    with pytest.raises(ConfigurationError, match="plant"):
        OfflinePlanner(Prior({"x": dist.Normal(0.0, 1.0)}), plant, backend)
    assert list(itertools.islice(library.parameters, 2)) == ["theta[0]", "theta[1]"]
