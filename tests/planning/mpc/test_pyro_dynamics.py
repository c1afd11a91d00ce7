"""Pyro models of a step: the same plans as the plant written by hand."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    ModelError,
    ShapeError,
    UnsupportedError,
    UnsupportedModelError,
)
from pyro_geo.infer import HMC
from pyro_geo.infer import MCMC as OurMCMC
from pyro_geo.planning.mpc import ICEMPlanner, PyroDynamics, pool_of
from tests.planning.mpc.problems import line

DRAWS = {"push": torch.tensor([1.0, 0.5, 0.8])}


def step(s: Tensor, a: Tensor) -> Tensor:
    push = pyro.sample("push", dist.Normal(torch.tensor(0.0), 1.0))
    return pyro.sample("next", dist.Normal(s + push * a, 0.3).to_event(1))


def cost(s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    return s_next.square().sum(-1)


def dynamics(model: Any = step, **options: Any) -> PyroDynamics:
    options = {"state_dim": 1, "lower": [-1.0], "upper": [1.0], **options}
    return PyroDynamics(model, cost, **options)


def planner(of: Any, draws: Any, **options: Any) -> ICEMPlanner:
    options = {"horizon": 4, "pop_size": 50, "num_iters": 2, "seed": 3, **options}
    return ICEMPlanner(of, draws=draws, **options)


def test_a_model_plans_as_the_plant_written_by_hand():
    model = planner(dynamics(), DRAWS).plan(torch.ones(1))
    theta = DRAWS["push"][:, None]
    plant = planner(line(noise=0.3), theta).plan(torch.ones(1))
    torch.testing.assert_close(model.actions, plant.actions)
    torch.testing.assert_close(model.states, plant.states)
    torch.testing.assert_close(model.costs, plant.costs)


def test_all_candidates_meet_the_same_noise():
    planned = planner(dynamics(), DRAWS)
    planned.plan(torch.ones(1))
    scenario = planned._scenario(torch.ones(1, 1), 0)
    s, actions = torch.ones(5, 1), torch.zeros(5, 4, 1)
    costs = planned._rollout.costs(s, actions, scenario)
    torch.testing.assert_close(costs, costs[:1].expand(5, 3))
    assert costs[0].unique().numel() == 3  # draws have noise of their own
    assert planned._rollout.lifted.rung == "traced"


def test_sites_that_draws_do_not_name_are_noise():
    found = dynamics()
    planner(found, {**DRAWS, "unused": torch.zeros(3)})
    assert found.latent_sites == ("push",)
    assert found.noise_sites == ("next",)
    assert (
        repr(found) == "PyroDynamics(step, 1 state, 1 action; unknown push; noise next)"
    )


def windy(s: Tensor, a: Tensor) -> Tensor:
    wind = pyro.sample("wind", dist.Normal(torch.tensor(0.0), 1.0))
    gust = pyro.sample("gust", dist.Normal(wind, 0.1 + s[0].square()))
    push = pyro.sample("push", dist.Normal(torch.tensor(0.0), 1.0))
    return s + push * a + gust


def test_a_parameter_without_draws_is_not_taken_for_noise():
    with pytest.raises(ModelError, match="site 'wind'.*noise_sites=\\('wind',\\)"):
        planner(dynamics(windy), DRAWS)
    with pytest.raises(ModelError, match="site 'push'"):
        planner(dynamics(windy), {"wind": torch.zeros(3)})
    # both ways out; the spread of the gusts depends on the state
    unknown = dynamics(windy)
    draws = {**DRAWS, "wind": torch.tensor([1.0, 2.0, 3.0])}
    plan = planner(unknown, draws).plan(torch.zeros(1))
    assert (unknown.latent_sites, unknown.noise_sites) == (("wind", "push"), ("gust",))
    drift = plan.states[:, 1, 0] - DRAWS["push"] * plan.actions[0, 0]
    assert bool((drift - draws["wind"]).abs().max() < 0.6)  # noise of .1
    for more in (DRAWS, draws):
        anew = dynamics(windy, noise_sites=["wind"])
        planner(anew, more)
        assert anew.latent_sites == ("push",)
        assert anew.noise_sites == ("wind", "gust")


def test_chances_that_depend_on_the_action_are_noise():
    def model(s: Tensor, a: Tensor) -> Tensor:
        push = pyro.sample("push", dist.Normal(torch.tensor(0.0), 1.0))
        hit = pyro.sample("hit", dist.Bernoulli(logits=5 + 1e-3 * a[0]))
        return s + push * hit

    found = dynamics(model)
    planner(found, DRAWS)
    assert found.noise_sites == ("hit",)


def test_models_with_plates_discrete_noise_and_vectors_are_mapped():
    def model(s: Tensor, a: Tensor) -> Tensor:
        rate = pyro.sample("rate", dist.Beta(torch.tensor(2.0), 2.0))
        with pyro.plate("parts", 2):
            w = pyro.sample("w", dist.StudentT(4.0, torch.zeros(2), 0.1))
        gust = pyro.sample("gust", dist.Bernoulli(rate))
        speed = pyro.deterministic("speed", s[1] + a[0] + gust)
        return torch.stack([s[0] + speed, speed]) + w

    draws = {"rate": torch.tensor([0.1, 0.9])}
    found = dynamics(model, state_dim=2, noise_sites=("w", "gust"))
    plan = planner(found, draws).plan(torch.zeros(2))
    assert plan.states.shape == (2, 5, 2)
    assert bool(plan.states.isfinite().all())
    assert found.noise_sites == ("w", "gust")


def test_draws_come_from_whatever_holds_them():
    def model(y: Tensor) -> None:
        push = pyro.sample("push", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(push, 0.1), obs=y)

    y = 0.7 + 0.1 * torch.randn(20, generator=torch.Generator().manual_seed(0))
    ours = OurMCMC(HMC(model), 30, 40, 2, seed=0, progress_bar=False).run(y)
    theirs = MCMC(NUTS(model), 20, warmup_steps=20, disable_progbar=True)
    with pyro.poutine.block():
        pyro.set_rng_seed(0)
        theirs.run(y)
        guide = AutoNormal(model, init_scale=0.02)
        guide(y)
    for source in (ours, theirs):
        values = pool_of(source)().values
        assert isinstance(values, dict)
        assert abs(float(values["push"].mean()) - 0.7) < 0.1
        plan = planner(dynamics(), source).plan(torch.ones(1))
        assert plan.costs.shape == (8,)
    before = torch.random.get_rng_state()
    pool = pool_of(guide, seed=4)()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(pool.values) == {"push"}
    assert len(pool) == 256
    planner(dynamics(), guide).plan(torch.ones(1))
    pyro.clear_param_store()


def test_models_that_cannot_be_used_are_named():
    with pytest.raises(ModelError, match="no site of the model"):
        planner(dynamics(), {"pull": torch.ones(3)})
    with pytest.raises(ConfigurationError, match="without names"):
        planner(dynamics(), torch.ones(3, 1))
    with pytest.raises(ConfigurationError, match="draws"):
        planner(dynamics(), None)

    def fails(s: Tensor, a: Tensor) -> Tensor:
        return step(s, a)[3]

    with pytest.raises(ModelError, match="cannot be run.*IndexError"):
        planner(dynamics(fails), DRAWS)

    def counts(s: Tensor, a: Tensor) -> Tensor:
        return step(s, a) + pyro.sample("hits", dist.Poisson(torch.tensor(1.0)))

    with pytest.raises(UnsupportedError, match="site 'hits'"):
        planner(dynamics(counts), DRAWS)

    def hidden(s: Tensor, a: Tensor) -> Tensor:
        return step(s, a) + torch.randn(1)

    with pytest.raises(UnsupportedModelError, match="outside its sites"):
        planner(dynamics(hidden), DRAWS)

    def twice(s: Tensor, a: Tensor) -> Tensor:
        return step(s, a).repeat(2)

    with pytest.raises(ShapeError, match="what the model returns"):
        planner(dynamics(twice), DRAWS)

    def nothing(s: Tensor, a: Tensor) -> None:
        step(s, a)

    with pytest.raises(ConfigurationError, match="returns NoneType"):
        planner(dynamics(nothing), DRAWS)
    with pytest.raises(ConfigurationError, match="noise_sites.*gale"):
        planner(dynamics(noise_sites=("gale",)), DRAWS)
    with pytest.raises(ConfigurationError, match="noise_sites"):
        dynamics(noise_sites="next")
    with pytest.raises(ConfigurationError, match="action_space"):
        PyroDynamics(step, cost, state_dim=1)
