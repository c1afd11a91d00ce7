"""Transitions: what they refuse, where episodes end, how they are packed."""

import numpy as np
import pytest
import torch

from pyro_geo.errors import (
    ConfigurationError,
    DiscountError,
    EpisodeError,
    NonFiniteDataError,
    ShapeError,
)
from pyro_geo.gp import ExactGPTD, SparseGPTD, Transitions, value_rows

X = torch.arange(6.0, dtype=torch.float64).view(6, 1)
ONES = torch.ones(6)


def test_rows_hold_node_successors_and_discounted_weights():
    x_next = torch.stack([X + 1, X + 2], 1)
    weight = torch.tensor([0.25, 0.75])
    discount = torch.tensor([0.8] * 5 + [0.0])
    steps = Transitions(X, x_next, ONES, discount, weight)
    assert (len(steps), steps.dim, steps.successors) == (6, 1, 2)
    want = torch.tensor([[1.0, 2.0, 3.0, 0.2, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(steps.pack()[1:2], want)
    # nothing follows a step that terminates, whatever was written there
    assert steps.pack()[5].tolist() == [5.0, 5.0, 5.0, 0.0, 0.0]
    assert value_rows(X, 2)[1].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(steps.discount, discount.double())


def test_some_successors_of_a_step_may_terminate():
    x_next = torch.stack([X + 1, torch.full_like(X, torch.nan)], 1)
    discount = torch.tensor([0.5, 0.0]).expand(6, 2)
    steps = Transitions(X, x_next, ONES, discount)
    assert steps.discount.tolist() == [0.25] * 6


def test_termination_is_told_from_truncation():
    discount = [0.9, 0.9, 0.0, 0.9, 0.9, 0.9]
    steps = Transitions(X, X + 1, ONES, discount, episode=[0, 0, 0, 7, 7, 2])
    assert steps.episode.tolist() == [0, 0, 0, 1, 1, 2]
    assert steps.linked.tolist() == [True, True, False, True, False, False]
    assert steps.discount[4] == 0.9  # the successor's value counts
    alone = Transitions(X, X + 1, ONES, discount)
    assert alone.linked.tolist() == [True, True, False, True, True, False]


def test_what_is_passed_is_not_changed_and_may_change_later():
    reward = np.ones(6)
    steps = Transitions(X, np.broadcast_to(X.numpy() + 1, (6, 1)), reward, 0.9)
    reward[0] = 5
    assert steps.reward[0] == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": ONES}, ShapeError, "argument x"),
        ({"x": torch.zeros(0, 1)}, ShapeError, "argument x"),
        ({"x_next": torch.zeros(5, 1)}, ShapeError, "argument x_next"),
        ({"x_next": torch.zeros(6, 2)}, ShapeError, "argument x_next"),
        ({"reward": torch.ones(6, 1)}, ShapeError, "argument reward"),
        ({"discount": torch.ones(5)}, ShapeError, "argument discount"),
        ({"weight": torch.ones(6, 2)}, ShapeError, "argument weight"),
        ({"weight": 0.5 * torch.ones(6, 1)}, ConfigurationError, "summing to 1"),
        ({"episode": [0, 0]}, ShapeError, "argument episode"),
        ({"episode": [0, 0, 1, 1, 0, 0]}, EpisodeError, "torn apart"),
        ({"discount": 1.5}, DiscountError, "from 0 to 1"),
        ({"discount": [0.9, 0.9, -0.1, 0, 0, 0]}, DiscountError, "row 2"),
        ({"discount": 1.0}, DiscountError, "never terminate"),
        ({"reward": [1, 1, 1, torch.nan, 1, 1]}, NonFiniteDataError, r"row 3.*drop"),
        ({"x": X * torch.inf}, NonFiniteDataError, "row 0"),
        ({"reward": ONES * torch.nan, "nan": "drop"}, NonFiniteDataError, "6 of 6"),
        ({"nan": "keep"}, ConfigurationError, "argument nan"),
    ],
)
def test_mistakes_are_named_at_once(change, error, message):
    good = {"x": X, "x_next": X + 1, "reward": ONES, "discount": 0.9}
    with pytest.raises(error, match=message):
        Transitions(**(good | change))


def test_undiscounted_steps_are_good_if_something_ends():
    discount = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert Transitions(X, X + 1, ONES, discount).discount.tolist() == discount


def test_a_dropped_row_ends_its_episode():
    reward = ONES.clone()
    reward[2] = torch.nan
    steps = Transitions(X, X + 1, reward, 0.9, nan="drop")
    assert len(steps) == 5
    assert steps.linked.tolist() == [True, False, True, True, False]
    steps.check_chain()
    batch = Transitions(
        X.expand(2, 6, 1),
        X.expand(2, 6, 1) + 1,
        torch.stack([ONES, reward]),
        0.9,
        nan="drop",
    )
    assert batch.reward.shape == (2, 5)


def test_a_gap_in_an_episode_is_refused_where_visits_share_noise():
    x_next = (X + 1).clone()
    x_next[2] = 9.0
    with pytest.raises(EpisodeError, match="rows 2 and 3"):
        Transitions(X, x_next, ONES, 0.9).check_chain()
    Transitions(X, x_next, ONES, 0.9, episode=[0, 0, 0, 1, 1, 1]).check_chain()
    several = Transitions(X, torch.stack([X, X + 1], 1), ONES, 0.9)
    with pytest.raises(EpisodeError, match="several successors"):
        several.check_chain()


def test_slices_join_again():
    steps = Transitions(X, X + 1, ONES, 0.9, episode=[0, 0, 0, 1, 1, 1])
    for cut in (2, 3):
        whole = steps[:cut].joined(steps[cut:])
        torch.testing.assert_close(whole.pack(), steps.pack())
    # a new episode where the last one stopped is one only if it is said to be
    assert steps[:2].joined(steps[2:]).linked[1]
    assert not steps[:2].joined(steps[2:], new_episode=True).linked[1]
    several = Transitions(X, torch.stack([X, X + 1], 1), ONES, 0.9)
    assert several[1:3].joined(several[4:]).pack().shape == (4, 5)
    assert steps.expand((2, 3)).pack().shape == (2, 3, 6, 3)


class Corridor:
    """States 0 to 3; 3 terminates, and so does nothing else. Three steps at most."""

    seeded: int | None = None

    class action_space:  # noqa: N801 (gymnasium's name)
        @staticmethod
        def seed(seed):
            Corridor.seeded = seed

        @staticmethod
        def sample():
            return 1

    def reset(self, seed=None):
        self.at, self.steps = 0, 0
        return np.array([self.at]), {}

    def step(self, action):
        self.at += action
        self.steps += 1
        over = self.at >= 3
        return np.array([self.at]), float(self.at), over, self.steps >= 3, {}


def test_an_environment_is_recorded():
    steps = Transitions.from_gymnasium(Corridor(), num_steps=7, discount=0.5, seed=4)
    assert Corridor.seeded == 4
    assert steps.x.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert steps.discount.tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0, 0.5]
    assert steps.episode.tolist() == [0, 0, 0, 1, 1, 1, 2]
    slow = Transitions.from_gymnasium(Corridor(), lambda s: 0, num_steps=4)
    # cut off after three steps: the value of the last state counts, and nothing links
    assert slow.discount.tolist() == [0.99] * 4
    assert slow.linked.tolist() == [True, True, False, False]


def test_action_values_have_the_next_action_in_their_successor():
    def policy(state):
        return 1 if state[0] < 2 else 5

    steps = Transitions.from_gymnasium(
        Corridor(), policy, num_steps=3, node=lambda s, a: [*s, a]
    )
    assert steps.x.tolist() == [[0, 1], [1, 1], [2, 5]]
    assert steps.x_next[:2].tolist() == [[1, 1], [2, 5]]


def test_gymnasium_tells_termination_from_truncation():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1", max_episode_steps=12)
    steps = Transitions.from_gymnasium(
        env, lambda s: int(s[2] > 0), num_steps=60, seed=0
    )
    last = steps.episode.diff(append=torch.tensor([-1])) != 0
    lengths = torch.bincount(steps.episode)
    cut = lengths[steps.episode] == 12
    assert bool(cut.any())
    assert bool((steps.discount[last & cut] > 0).all())
    steps.check_chain()
    env = gymnasium.make("CartPole-v1", max_episode_steps=500)
    steps = Transitions.from_gymnasium(env, lambda s: 0, num_steps=60, seed=0)
    ended = steps.episode.diff() != 0
    assert steps.discount[:-1][ended].eq(0).all()


def test_what_is_no_tensor_of_numbers_is_named():
    x = np.zeros((3, 2))
    with pytest.raises(ShapeError, match=r"argument discount\).*'0.9'"):
        Transitions(x, x, np.zeros(3), "0.9")
    with pytest.raises(ShapeError, match=r"argument reward\)"):
        Transitions(x, x, ["a", "b", "c"], 0.9)


@pytest.mark.parametrize("model", [ExactGPTD, SparseGPTD])
def test_a_model_takes_transitions_and_no_tensor(model):
    with pytest.raises(ConfigurationError, match=r"Tensor, expected Transitions\(x"):
        model(torch.zeros(3, 2))
