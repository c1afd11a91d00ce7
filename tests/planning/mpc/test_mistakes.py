"""Wrong calls and failing dynamics: named errors, counted candidates."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo.errors import (
    BoundsError,
    ConfigurationError,
    DivergenceWarning,
    ElitesError,
    NoFeasibleSampleError,
    NonFiniteDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.optim import CEMGMM
from pyro_geo.planning import Simulator
from pyro_geo.planning.environments import Pendulum, unknown_sign
from pyro_geo.planning.mpc import (
    CEMPlanner,
    ICEMPlanner,
    MPPIPlanner,
)
from tests.planning.mpc.problems import NAMES, SMALL, line, mass, planners


def broken(where: float) -> Simulator:
    """Dynamics that fail where an action is above a number."""

    def simulate(theta, s, a, w):
        return torch.where(a > where, math.nan, s + theta * a)

    def reward(s, a, s_next):
        return s_next[..., 0]

    return Simulator(
        simulate, reward, lambda shape, g: torch.ones(*shape, 1), parameters=["k"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_failed_candidates_are_counted_and_never_chosen(name):
    planner = planners(broken(0.5), draws=torch.ones(2, 1), horizon=3)[name]
    plan = planner.plan(torch.zeros(1))
    assert 0 < int(plan.n_non_finite) < plan.n_evals
    assert math.isfinite(float(plan.cost))
    assert bool((plan.actions <= 0.5).all())
    assert not bool(plan.lost)


@pytest.mark.parametrize("name", NAMES)
def test_where_the_dynamics_fail_is_named_when_all_is_lost(name):
    def simulate(theta, s, a, w):
        after = s + theta * a
        bad = (after[..., :1] > -9) & (s[..., 1:] > 1.5) & (theta > 1)
        return torch.cat(
            [torch.where(bad, math.nan, after[..., :1]), s[..., 1:] + 1], -1
        )

    plant = Simulator(
        simulate,
        lambda s, a, s_next: s_next[..., 0],
        lambda shape, g: torch.zeros(*shape, 2),
        parameters=["k"],
    )
    planner = planners(plant, draws=torch.tensor([[1.0], [2.0]]), horizon=4)[name]
    place = "problem 0, draw 1, step 2, number 0 of the next state"
    with pytest.raises(NoFeasibleSampleError, match=place):
        planner.plan(torch.zeros(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_problem_does_not_take_the_others_with_it(name):
    def simulate(theta, s, a, w):
        return torch.where(s > 5, math.nan, s + a)

    plant = Simulator(
        simulate,
        lambda s, a, n: -n[..., 0].square(),
        lambda shape, g: torch.zeros(*shape, 1),
        parameters=["k"],
        theta=torch.ones(1),
    )
    planner = planners(plant, horizon=3)[name]
    with pytest.warns(DivergenceWarning, match=r"problems \[1\]"):
        plan = planner.plan(torch.tensor([[1.0], [9.0]]))
    assert plan.lost.tolist() == [False, True]
    assert float(plan.cost[0]) < 1.0


def test_values_and_costs_that_fail_are_named():
    options: dict[str, Any] = {"horizon": 2, "terminal_value": lambda s: s[:, 0] / 0}
    with pytest.raises(NoFeasibleSampleError, match="draw 0, value of the end state"):
        planners(line(), **options)["icem"].plan(torch.ones(1))
    plant = Simulator(
        lambda theta, s, a, w: s,
        lambda s, a, n: n[..., 0] / 0,
        lambda shape, g: torch.ones(*shape, 1),
        parameters=["k"],
        theta=torch.ones(1),
    )
    with pytest.raises(NoFeasibleSampleError, match="step 0, cost"):
        planners(plant, horizon=2)["icem"].plan(torch.ones(1))
    options["terminal_value"] = lambda s: s
    planners(line(), **options)["icem"].plan(torch.ones(1))  # (K, 1) is (K,)
    options["terminal_value"] = lambda s: s.sum()
    with pytest.raises(ShapeError, match="values of end states"):
        planners(line(), **options)["icem"].plan(torch.ones(1))
    with pytest.raises(ShapeError, match="what the risk returns"):
        planners(line(), risk=lambda c: c)["icem"].plan(torch.ones(1))


def test_states_are_checked():
    planner = planners(mass())["icem"]
    with pytest.raises(ShapeError, match="argument s"):
        planner.plan(torch.ones(3))
    with pytest.raises(ShapeError, match="argument s"):
        planner.plan(torch.ones(1, 1, 2))
    with pytest.raises(NonFiniteDataError, match="problem 1, number 0"):
        planner.plan(torch.tensor([[0.0, 0.0], [math.inf, 0.0]]))
    with pytest.raises(ConfigurationError, match="elapsed"):
        planner.plan(torch.ones(2), elapsed=-1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"deadline_s": 0.0}, ConfigurationError, "deadline_s"),
        ({"horizon": 0}, ConfigurationError, "horizon"),
        ({"num_draws": 0}, ConfigurationError, "num_draws"),
        ({"discount": 0.0}, ConfigurationError, "discount"),
        ({"discount": 1.1}, ConfigurationError, "discount"),
        ({"risk": 0.9}, ConfigurationError, "risk"),
        ({"terminal_value": 3.0}, ConfigurationError, "terminal_value"),
        ({"draws": torch.ones(4, 3)}, ShapeError, "draws"),
        ({"draws": torch.ones(0, 2)}, ConfigurationError, "draws"),
        ({"draws": {"mass": torch.ones(3)}}, ConfigurationError, "draws"),
        ({"draws": 3.0}, ConfigurationError, "draws"),
        ({"draws": torch.tensor([[1.0, math.nan]])}, NonFiniteDataError, "draw 0"),
        ({"pop_size": 5}, ElitesError, "num_elites"),
        ({"decay": 0.5}, ConfigurationError, "decay"),
    ],
)
def test_options_are_checked(options, error, words):
    with pytest.raises(error, match=words):
        ICEMPlanner(mass(), **options)


def test_options_of_the_others_are_checked():
    bad: list[dict[str, Any]] = [
        {"offsets": "pink"},
        {"num_kept": 500},
        {"optimizer": CEMGMM(2)},
    ]
    for options in bad:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            CEMPlanner(mass(), **options)
    with pytest.raises(ConfigurationError, match="temperature"):
        MPPIPlanner(mass(), temperature=0.0)
    with pytest.raises(UnsupportedError, match="lists its actions"):
        CEMPlanner(unknown_sign())
    with pytest.raises(ConfigurationError, match="dynamics"):
        CEMPlanner(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_bounds_that_cross_are_refused():
    class Space:
        def __init__(self, low: list[float], high: list[float]) -> None:
            self.low, self.high = np.array(low), np.array(high)

    with pytest.raises(BoundsError, match="action number 0"):
        ICEMPlanner(mass(), action_space=Space([1.0], [-1.0]))
    with pytest.raises(BoundsError, match="found .*inf"):
        ICEMPlanner(mass(), action_space=Space([-math.inf], [1.0]))
    with pytest.raises(ShapeError, match="action_space"):
        ICEMPlanner(mass(), action_space=Space([-1.0, -1.0], [1.0, 1.0]))
    with pytest.raises(UnsupportedError, match="no|not numbers in a box"):
        ICEMPlanner(mass(), action_space=object())
    narrow = ICEMPlanner(mass(), horizon=3, action_space=Space([0.25], [0.5]), **SMALL)
    actions = narrow.plan(torch.tensor([1.0, 0.0])).actions
    assert bool(((actions >= 0.25) & (actions <= 0.5)).all())


@pytest.mark.parametrize("name", NAMES)
def test_no_warning_and_no_action_outside_the_box(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planner = planners(Pendulum(), horizon=6, seed=4)[name]
        s = torch.tensor([-1.0, 0.0, 0.0])
        for _ in range(3):
            plan = planner.plan(s)
            assert bool((plan.actions.abs() <= 2).all())
            assert bool((plan.means.abs() <= 2).all())
