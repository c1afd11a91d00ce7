"""Runs in environments of Gymnasium and on plants, and their reports."""

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, UnsupportedError
from pyro_geo.planning.environments import Pendulum, TwoRoutes
from pyro_geo.planning.mpc import ICEMPlanner, play, reports, run_plant
from pyro_geo.planning.mpc.reports import plan_curves, planner_for, report
from tests.planning.mpc.problems import mass

SMALL = {"pop_size": 40, "num_iters": 2, "horizon": 5}
DOWN = torch.tensor([-1.0, 0.0, 0.0])


def test_a_run_in_an_environment_is_that_on_its_plant():
    pytest.importorskip("gymnasium")
    from pyro_geo.planning.environments import PendulumEnv

    plant = Pendulum()
    own = run_plant(plant, ICEMPlanner(plant, **SMALL), DOWN, num_steps=4)
    watched = []
    env = PendulumEnv(max_steps=4)
    planner = ICEMPlanner(plant, action_space=env.action_space, **SMALL)
    seen = play(
        env,
        planner,
        num_steps=10,
        seed=0,
        options={"state": DOWN.tolist()},
        watch=lambda *step: watched.append(step),
    )
    assert len(seen.plans) == len(watched) == 4  # the environment was truncated
    torch.testing.assert_close(seen.actions, own.actions, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.states, own.states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.rewards, own.rewards, atol=1e-3, rtol=1e-4)
    assert not seen.terminated


def test_gymnasiums_own_pendulum_is_planned_with_our_plant():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Pendulum-v1").unwrapped
    planner = ICEMPlanner(Pendulum(), action_space=env.action_space, **SMALL)
    run = play(env, planner, num_steps=3, seed=1)
    # the plant is theirs: what was predicted is what happens
    for t, plan in enumerate(run.plans):
        torch.testing.assert_close(
            plan.states[0, 1], run.states[t + 1], atol=1e-4, rtol=1e-4
        )
        reward = -float(plan.step_costs[0, 0])
        assert float(run.rewards[t]) == pytest.approx(reward, abs=1e-3)


def test_arrays_come_out_where_arrays_go_in():
    gymnasium = pytest.importorskip("gymnasium")
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    planner = ICEMPlanner(Pendulum(), action_space=space, **SMALL)
    action = planner.act(DOWN.numpy())
    assert isinstance(action, np.ndarray)
    assert space.contains(action)
    with pytest.raises(UnsupportedError, match="action_space"):
        ICEMPlanner(Pendulum(), action_space=gymnasium.spaces.Discrete(3))
    env = gymnasium.make("MountainCarContinuous-v0")
    with pytest.raises(ConfigurationError, match="bounds of the planner"):
        play(env, planner, num_steps=1)


def test_a_report_shows_the_plan_and_the_run(tmp_path, monkeypatch):
    file = {"plant": TwoRoutes, "start": lambda: torch.zeros(2)}
    draws = {"push": torch.rand(20) + 0.5, "current": 0.1 * torch.rand(20)}
    plant, planner = planner_for(file, draws, method="icem", beta=0.5, **SMALL)
    episode = run_plant(plant, planner, torch.zeros(2), num_steps=2)
    curves = plan_curves(episode.plans[0], ("east", "north"))
    assert [c.y_label for c in curves] == ["east", "north", "action", "cost"]
    assert len(curves[0].lines) == 8
    pages = []
    # the page itself is tested with the program that writes it
    monkeypatch.setattr(
        reports, "write_report", lambda data, path, **page: pages.append(page) or path
    )
    report(episode, tmp_path / "page.html", idata=None, facts={"seed": "0"})  # type: ignore[arg-type]
    (page,) = pages
    captions = [c.caption for c in page["curves"]]
    assert "Search: lowest cost so far of each instance" in captions
    assert "Run: states" in captions
    cost = f"{-float(episode.rewards.sum()):.4g}"
    assert ["cost of the run", cost] in page["tables"]["Run"]
    with pytest.raises(UnsupportedError, match="start"):
        planner_for({"plant": mass}, draws)
    with pytest.raises(ConfigurationError, match="method"):
        planner_for(file, draws, method="sac")
