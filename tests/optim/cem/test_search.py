"""Batches against single searches, budgets, restarts, frozen instances, asking."""

import math

import pytest
import torch
from torch import Tensor

from pyro_geo.errors import (
    BoundsError,
    ConfigurationError,
    NoFeasibleSampleError,
    ObjectiveShapeError,
    ShapeError,
)
from pyro_geo.optim.cem import CEM, CEMGMM, DecentCEM, truncated_normal

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore::pyro_geo.errors.EliteCollapseWarning"),
]


def wave(x: Tensor) -> Tensor:
    return (x.sin() + (10 / 3 * x).sin()).sum(-1)


class Counting:
    """An objective that remembers how many points it got."""

    def __init__(self) -> None:
        self.points = 0

    def __call__(self, x: Tensor, problem: Tensor | None = None) -> Tensor:
        self.points += x.shape[:-1].numel()
        return wave(x)


def noise_of(*shape: int) -> Tensor:
    return truncated_normal(torch.empty(shape), 2.0, torch.Generator().manual_seed(9))


def uniform(num_instances: int, each: int, **options) -> DecentCEM:
    options = {"restart": False, "layout": "uniform", **options}
    return DecentCEM(num_instances, pop_size=num_instances * each, **options)


BOX = {"lower": torch.tensor([-7.5, -7.5], dtype=torch.float64), "upper": 7.5}


def test_instances_in_one_call_equal_calls_of_one_instance():
    noise = noise_of(30, 3, 4, 20, 2)
    means = 3.0 * noise_of(3, 4, 2)
    whole = uniform(4, 20).minimize(
        wave, **BOX, mean=means, noise=noise, batch_shape=(3,)
    )
    assert whole.converged.all()
    assert whole.n_fillers > 0  # they froze at different times
    for b in range(3):
        for m in range(4):
            one = CEM(pop_size=20).minimize(
                wave, **BOX, mean=means[b, m], noise=noise[:, b, m]
            )
            assert torch.equal(one.means[0], whole.means[b, m])
            assert torch.equal(one.stds[0], whole.stds[b, m])
            assert torch.equal(one.best_x[0], whole.best_x[b, m])
            assert torch.equal(
                one.history[:, 0], whole.history[: len(one.history), b, m]
            )
        assert int(whole.n_evals[b]) % 20 == 0


def test_one_ranking_over_all_instances_is_not_decentralised():
    # the twin: candidates of all instances compete for the same elites
    noise, means = noise_of(12, 4, 20, 2), 3.0 * noise_of(4, 2)

    def twin(mean: Tensor) -> Tensor:
        mean, var = mean.clone(), torch.full((4, 2), 3.75**2)
        for z in noise:
            room = torch.minimum(mean + 7.5, 7.5 - mean) / 2
            x = mean[:, None] + torch.minimum(var.sqrt(), room)[:, None] * z
            rank = wave(x).flatten().argsort().argsort().view(4, 20)
            for m in range(4):
                own = x[m, rank[m] < 8]
                if len(own):
                    mean[m] = 0.1 * mean[m] + 0.9 * own.mean(0)
                    var[m] = 0.1 * var[m] + 0.9 * own.var(0, correction=0)
        return mean

    def separate(m: int) -> Tensor:
        search = CEM(pop_size=20, min_var=0.0)
        return search.minimize(wave, **BOX, mean=means[m], noise=noise[:, m]).means[0]

    alone = torch.stack([separate(m) for m in range(4)])
    ours = uniform(4, 20, min_var=0.0).minimize(wave, **BOX, mean=means, noise=noise)
    assert torch.equal(ours.means, alone)
    assert not torch.allclose(twin(means), alone, atol=0.1)


def test_noise_of_one_iteration_at_a_time_is_the_same_as_all_at_once():
    search = DecentCEM(5, pop_size=200, restart=False, max_iters=10)
    noise, asked = noise_of(10, 3, 200, 2), []

    def draw(iteration: int) -> Tensor:
        asked.append(iteration)
        return noise[iteration]

    found, steps = [], {**BOX, "batch_shape": (3,), "seed": 2}
    for given in (noise, draw):
        going = search.start(noise=given, **steps)
        while not going.done:
            going.tell(wave(going.ask()))
        found.append(going.result())
    assert asked == list(range(len(found[0].history)))  # once, whatever crews there are
    assert torch.equal(found[0].history, found[1].history)
    assert torch.equal(found[0].x, found[1].x)
    with pytest.raises(ShapeError, match="noise"):
        search.start(noise=lambda i: noise[0, 0], **steps).ask()


def test_replay_is_exact_and_a_seed_repeats_a_run():
    search = DecentCEM(5, pop_size=200)
    noise = noise_of(10, 200, 2)
    first, second = [search.minimize(wave, **BOX, noise=noise) for _ in range(2)]
    assert torch.equal(first.history, second.history)
    assert first.reason == "noise"
    assert len(first.history) == 10
    runs = [
        search.minimize(wave, **BOX, seed=seed, budget=2000).history
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_no_global_randomness():
    state = torch.get_rng_state()
    DecentCEM(5, pop_size=200).minimize(wave, **BOX, budget=4000)
    CEMGMM(3, pop_size=50, restart=True).minimize(wave, **BOX, budget=2000)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("layout", ["uniform", "portfolio"])
@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("score", ["best_sample", "mean", "elite_mean"])
@pytest.mark.parametrize("flat", [True, False])
def test_every_evaluation_is_counted_and_the_budget_kept(layout, restart, score, flat):
    counting = Counting()
    search = DecentCEM(
        4, pop_size=101, layout=layout, restart=restart, score=score, max_iters=7
    )
    assert sum(search.shares) == 101
    found = search.minimize(counting, **BOX, batch_shape=(2, 3), budget=3000, flat=flat)
    assert counting.points == int(found.n_evals.sum()) + found.n_fillers
    assert found.n_evals.shape == (2, 3)
    assert int(found.n_evals.max()) <= 3000
    if flat:
        assert found.n_fillers == 0
    if restart:
        # what is left does not pay for a population and the lives it may end
        assert int(found.n_evals.min()) > 3000 - 2 * 101
        assert found.reason == "budget"
    torch.testing.assert_close(wave(found.best_x), found.best_fun)
    if score != "elite_mean":
        torch.testing.assert_close(wave(found.x), found.fun)


def test_one_problem_never_gets_fillers():
    counting = Counting()
    found = uniform(6, 20).minimize(counting, **BOX)
    assert found.n_fillers == 0
    assert counting.points == int(found.n_evals)
    assert found.reason == "converged"


def test_every_candidate_is_in_the_box_and_the_best_never_gets_worse():
    lower = torch.tensor([[-1.0, 2.0], [0.0, 0.0], [-3.0, -9.0]])
    upper = lower + torch.tensor([1e-3, 5.0])

    def fn(x: Tensor) -> Tensor:
        assert bool((x >= lower[:, None]).all() and (x <= upper[:, None]).all())
        return wave(x)

    found = DecentCEM(5, pop_size=100, min_var=1e-9).minimize(
        fn, lower=lower, upper=upper, batch_shape=(3,), budget=5000
    )
    assert bool((found.history.diff(dim=0) <= 0).all())
    assert torch.equal(found.history[-1], found.best_fun)


def test_lives_are_written_down_and_the_best_of_them_is_the_answer():
    found = DecentCEM(4, pop_size=120).minimize(wave, **BOX, batch_shape=(3,))
    basins = found.basins
    assert len(basins.x) == int((found.n_restarts + 1).sum())
    lowest = torch.full((12,), math.inf)
    home = basins.problem * 4 + basins.instance
    lowest = lowest.scatter_reduce(0, home, basins.fun, "amin")
    assert torch.equal(lowest.view(3, 4), found.best_fun)
    assert torch.equal(found.fun, found.best_fun.min(-1).values)
    assert torch.equal(found.best_fun.argmin(-1), found.instance)
    torch.testing.assert_close(wave(basins.x), basins.fun)
    ends = basins.std.square().amax(-1) <= 1e-3 * (1 + 1e-12)
    assert torch.equal(ends, basins.converged)


def test_portfolio_begins_in_the_middle_with_half_of_the_population():
    search = DecentCEM(6, pop_size=500)
    assert search.shares == [250, 50, 50, 50, 50, 50]
    seen = []
    search.minimize(lambda x: seen.append(x) or wave(x), **BOX, budget=500)
    wide, narrow = seen[0][:250], seen[0][250:].view(5, 50, 2)
    # standard error of a mean of 250 draws of spread 3.75 * sqrt(.7737)
    assert bool((wide.mean(0).abs() < 4.5 * 3.3 / 250**0.5).all())
    assert float(narrow.mean(1).std(0).min()) > 1.0


def test_coloured_starts_are_the_same_at_each_step_of_time():
    search = DecentCEM(
        8, layout="uniform", init="coloured", horizon=10, pop_size=160, score="mean"
    )
    box = {"lower": -torch.ones(20), "upper": 1.0}
    means = search.start(**box).result().means.view(8, 10, 2)
    assert bool((means == means[:, :1]).all())
    assert bool((means[0] == 0).all())
    assert len(means[:, 0, 0].unique()) == 8


def test_an_instance_begins_again_from_the_distribution_of_starts():
    search = CEM(pop_size=20, restart=True, max_iters=1, min_var=0.0)
    found = search.minimize(
        wave, mean=torch.zeros(1), std=2.0, budget=20 * 1000, batch_shape=(4,)
    )
    begun = (found.basins.mean)[found.basins.x.isfinite().all(-1)]
    assert len(begun) == 4000
    # first centres spread as the truncated normal, then move by at most two spreads
    assert float(begun.abs().max()) <= 8.0
    assert float(begun.std()) > 1.0


def test_given_candidates_come_first():
    seen = []
    given = torch.arange(12.0).view(3, 2, 2) / 10
    uniform(3, 10).minimize(
        lambda x: seen.append(x) or wave(x), **BOX, candidates=given
    )
    assert torch.equal(seen[0].view(3, 10, 2)[:, :2], given)
    seen.clear()
    uniform(3, 10).minimize(
        lambda x: seen.append(x) or wave(x), **BOX, candidates=given[0]
    )
    assert torch.equal(seen[0].view(3, 10, 2)[0, :2], given[0])
    assert not torch.equal(seen[0].view(3, 10, 2)[1, :2], given[1])


@pytest.mark.parametrize("flat", [True, False])
def test_ask_and_tell_give_the_numbers_of_minimize(flat):
    search = uniform(4, 20)
    whole = search.minimize(wave, **BOX, batch_shape=(3,), seed=5)
    steps = search.start(**BOX, batch_shape=(3,), seed=5, flat=flat)
    best = math.inf
    while not steps.done:
        x = steps.ask()
        assert torch.equal(x, steps.ask())
        assert len(steps.problem) == (len(x) if flat else len(steps.problem))
        steps.tell(wave(x))
        now = steps.result()
        assert float(now.fun.sum()) <= best
        best = float(now.fun.sum())
        assert torch.equal(steps.best_fun, now.fun)
    found = steps.result()
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.history, whole.history)
    assert torch.equal(found.n_evals, whole.n_evals)
    with pytest.raises(ConfigurationError, match="done"):
        steps.ask()


def test_elites_are_those_of_the_last_iteration_best_first():
    steps = uniform(3, 20, elite_frac=0.2).start(**BOX, batch_shape=(2,))
    x = steps.ask()
    steps.tell(wave(x))
    by_instance = x.view(2, 3, 20, 2)
    order = wave(by_instance).argsort(-1)[..., :4, None].expand(-1, -1, -1, 2)
    assert torch.equal(steps.elites, by_instance.gather(2, order))


def test_the_score_by_elites_does_not_fall_for_lucky_noise():
    # a shallow wide bowl, and a narrow place where noise is large
    noise = torch.Generator().manual_seed(1)

    def fn(x: Tensor) -> Tensor:
        near = (x - 3).abs().sum(-1) < 1
        scale = torch.where(near, 3.0, 0.01)
        luck = torch.randn(x.shape[:-1], generator=noise)
        return x.square().sum(-1) + scale * luck

    options = {"layout": "uniform", "restart": False, "pop_size": 400}
    box = {"lower": torch.full((1,), -5.0), "upper": 5.0, "batch_shape": (20,)}
    lucky = DecentCEM(4, **options).minimize(fn, **box)
    steady = DecentCEM(4, **options, score="elite_mean").minimize(fn, **box)
    assert float(steady.x.abs().mean()) < 0.05
    assert float(steady.x.abs().mean()) < float(lucky.x.abs().mean())


def test_costs_that_are_not_finite_are_counted_and_never_elite():
    def fn(x: Tensor) -> Tensor:
        cost = x.square().sum(-1)
        cost = torch.where(x[..., 0] < 0, math.nan, cost)
        return torch.where(x[..., 1] < 0, -math.inf, cost)

    found = CEM(pop_size=200).minimize(fn, **BOX, batch_shape=(2,))
    assert bool((found.x >= 0).all())
    assert bool((found.means >= -1e-12).all())
    assert bool((found.n_non_finite > 100).all())
    assert bool((found.n_non_finite < found.n_evals).all())


def test_a_first_population_without_finite_costs_is_refused_or_suffered():
    def lost(x: Tensor, problem: Tensor) -> Tensor:
        return torch.where(problem == 1, math.inf, wave(x))

    with pytest.raises(NoFeasibleSampleError, match=r"problems \[1\]"):
        CEM().minimize(lost, **BOX, batch_shape=(2,), flat=True)
    search = CEM(allow_infeasible=True, max_iters=3)
    found = search.minimize(lost, **BOX, batch_shape=(2,), flat=True)
    assert found.fun.isfinite().tolist() == [True, False]
    assert int(found.n_non_finite[1]) == 1500
    assert torch.equal(found.means[1, 0], torch.zeros(2))


def test_functions_of_one_point_and_chunks():
    search = uniform(3, 20)
    whole = search.minimize(wave, **BOX, batch_shape=(2,))
    largest = 0

    def small(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.shape[:-1].numel())
        return wave(x)

    cut = search.minimize(small, **BOX, batch_shape=(2,), max_points=30)
    assert largest <= 30
    rows = search.minimize(
        lambda x, _: small(x), **BOX, batch_shape=(2,), max_points=7, flat=True
    )
    single = search.minimize(
        lambda x: float(wave(x)), **BOX, batch_shape=(2,), vectorized=False
    )
    for other in (cut, rows, single):
        torch.testing.assert_close(other.x, whole.x, rtol=0, atol=1e-12)


def test_gradient_mode_of_the_caller_reaches_the_function():
    weight = torch.ones(2, requires_grad=True)

    def fn(x: Tensor) -> Tensor:
        assert torch.is_grad_enabled()
        return (weight * x).square().sum(-1)

    found = CEM(max_iters=2).minimize(fn, **BOX)
    assert not found.x.requires_grad
    with torch.no_grad():
        CEM(max_iters=2).minimize(
            lambda x: wave(x) if not torch.is_grad_enabled() else x, **BOX
        )


def test_polishing_goes_down_to_the_minimum_and_is_counted():
    search = uniform(4, 25, polish=150)
    counting = Counting()
    found = search.minimize(counting, **BOX, budget=5000, batch_shape=(2,))
    assert counting.points == int(found.n_evals.sum()) + found.n_fillers
    assert int(found.n_evals.max()) <= 5000
    with torch.enable_grad():
        x = found.best_x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(wave(x).sum(), x)
    inside = (found.best_x.abs() < 7.5).all(-1)
    assert float(slope[inside].abs().max()) < 1e-3
    rough = uniform(4, 25).minimize(wave, **BOX, batch_shape=(2,))
    assert bool((found.best_fun <= rough.best_fun).all())


def test_polishing_stays_in_the_box():
    found = CEM(pop_size=50, polish=60).minimize(
        lambda x: x.sum(-1), lower=torch.zeros(3), upper=1.0
    )
    assert torch.equal(found.x, torch.zeros(3))


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        (
            {"lower": torch.ones(2), "upper": torch.tensor([2.0, 1.0])},
            BoundsError,
            "lower",
        ),
        ({"mean": torch.zeros(2)}, BoundsError, "std"),
        ({"std": torch.ones(2)}, BoundsError, "mean"),
        ({"lower": -1.0, "upper": 1.0}, BoundsError, "dimensions"),
        ({"mean": torch.zeros(2), "std": 0.0}, BoundsError, "std"),
        ({"mean": torch.zeros(2), "std": math.inf}, BoundsError, "std"),
        ({**BOX, "mean": torch.tensor([0.0, 7.5])}, BoundsError, "mean"),
        ({**BOX, "mean": torch.tensor([0.0, math.nan])}, BoundsError, "mean"),
        ({**BOX, "mean": torch.zeros(3)}, ShapeError, "lower"),
        ({**BOX, "batch_shape": (2,), "mean": torch.zeros(3, 2)}, ShapeError, "mean"),
        ({**BOX, "noise": torch.full((2, 50, 2), 2.5)}, ConfigurationError, "noise"),
        ({**BOX, "noise": torch.zeros(2, 49, 2)}, ShapeError, "noise"),
        ({**BOX, "budget": 49}, ConfigurationError, "budget"),
        ({**BOX, "candidates": torch.zeros(60, 2)}, ConfigurationError, "candidates"),
        ({**BOX, "candidates": torch.zeros(4, 3)}, ConfigurationError, "candidates"),
    ],
)
def test_mistakes_are_named_before_anything_is_evaluated(arguments, error, name):
    with pytest.raises(error, match=name):
        CEM(pop_size=50).minimize(pytest.fail, **arguments)


@pytest.mark.parametrize("returned", [torch.zeros(3), 1.0, torch.zeros(500, 1)])
def test_a_cost_of_the_wrong_shape_is_refused(returned):
    with pytest.raises(ObjectiveShapeError, match="one cost"):
        CEM().minimize(lambda x: returned, **BOX)
