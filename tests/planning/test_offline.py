"""The offline stage: workers, stores, failures."""

from collections.abc import Mapping
from typing import Any

import joblib
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    ConvergenceWarning,
    DiscountError,
    OfflinePlanningError,
)
from pyro_geo.planning import (
    ExactValues,
    GPSarsa,
    GPTDPolicyIteration,
    GridBackend,
    Learned,
    OfflineLibrary,
    OfflinePlanner,
    Prior,
    Simulator,
    TabularBackend,
    ValueBackend,
)
from pyro_geo.planning.boolean_network import melanoma
from pyro_geo.planning.environments import LinearQuadratic, Pendulum, unknown_sign
from pyro_geo.planning.solving import solve_group
from tests.engine.test_workers import dask, ray


class Noisy(ValueBackend):
    """Values with randomness of the seeds, some of which fail."""

    discount = 0.9

    def __init__(self, limit: float = 1e9) -> None:
        self.limit = limit

    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        if bool((theta > self.limit).any()):
            raise ArithmeticError("too large")
        noise = [
            torch.rand(2, generator=torch.Generator().manual_seed(x)) for x in seeds
        ]
        q = theta[:, :1] + torch.stack(noise)
        return Learned({"q": q}, {"size": theta[:, 0].abs()})

    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        mean = tensors["q"][:, None].expand(-1, len(s), 2)
        return mean, torch.zeros_like(mean)


def planner(backend: ValueBackend, **options: object) -> OfflinePlanner:
    prior = Prior({"push": dist.Normal(torch.tensor(0.0), 1.0)})
    sizes = {"num_draws": 22, "group_size": 4, "groups_per_round": 2}
    return OfflinePlanner(prior, None, backend, **{**sizes, **options})


def same(first: OfflineLibrary, second: OfflineLibrary) -> bool:
    return torch.equal(first.theta, second.theta) and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def test_a_library_is_a_function_of_its_seed() -> None:
    first = planner(Noisy()).run(seed=3)
    assert len(first) == 22
    assert same(first, planner(Noisy()).run(seed=3))
    assert not same(first, planner(Noisy()).run(seed=4))
    assert torch.equal(first.diagnostics["size"], first.theta[:, 0].abs())


def test_any_number_of_workers_makes_the_same_library() -> None:
    alone = planner(Noisy(1.5)).run(seed=3)
    with joblib.parallel_config(backend="threading"):
        assert same(alone, planner(Noisy(1.5)).run(seed=3, n_jobs=2))


@pytest.mark.slow
def test_processes_make_the_same_library() -> None:
    alone = planner(Noisy(1.5)).run(seed=3)
    for jobs in (2, 3):
        found = planner(Noisy(1.5)).run(seed=3, n_jobs=jobs)
        assert same(alone, found)
        assert found.failed == alone.failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the backends themselves warn of
@pytest.mark.parametrize("backend", [dask, ray])
def test_clusters_make_the_same_library(backend: Any) -> None:
    def solved(values: ValueBackend, n_jobs: int | None) -> OfflineLibrary:
        own = Prior({"keep": dist.Uniform(0.8, 1.0), "push": dist.Uniform(-1.0, 1.0)})
        sizes: Any = {"num_draws": 12, "group_size": 3, "groups_per_round": 2}
        plant = unknown_sign(0.1)
        return OfflinePlanner(own, plant, values, **sizes).run(seed=3, n_jobs=n_jobs)

    learned = GPTDPolicyIteration(num_steps=20, max_sweeps=2, fit_steps=4, horizon=4)
    exact = GridBackend([torch.linspace(-4, 4, 41)], tolerance=1e-3)
    alone = [solved(values, 1) for values in (learned, exact)]
    failing = planner(Noisy(1.5)).run(seed=3)
    with backend():
        spread = [solved(values, None) for values in (learned, exact)]
        found = planner(Noisy(1.5)).run(seed=3)
    assert same(failing, found)
    assert found.failed == failing.failed
    for first, second in zip(alone, spread, strict=True):
        assert same(first, second)
        for name, value in first.diagnostics.items():
            assert torch.equal(value, second.diagnostics[name])


def test_failed_draws_are_recorded(tmp_path) -> None:
    whole, part = planner(Noisy()).run(seed=3), planner(Noisy(1.0)).run(seed=3)
    large = (whole.theta[:, 0] > 1.0).nonzero()[:, 0].tolist()
    assert list(part.failed) == large
    assert part.failed[large[0]] == "ArithmeticError: too large"
    keep = whole.theta[:, 0] <= 1.0
    assert torch.equal(part.theta, whole.theta[keep])
    assert torch.equal(part.tensors["q"], whole.tensors["q"][keep])  # seeds by number
    with pytest.raises(OfflinePlanningError, match="too large"):
        planner(Noisy(0.0)).run(seed=3)


def test_values_that_are_not_finite_have_failed() -> None:
    backend = ExactValues(lambda theta, s: theta[:, None, :] * s[:, None])
    theta = torch.tensor([[1.0], [torch.nan], [2.0], [3.0], [4.0], [5.0]])
    library = OfflinePlanner(theta, None, backend).run()
    assert library.failed == {1: "theta is not finite"}
    assert library.theta[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_store_goes_on_where_it_was_cut(tmp_path, monkeypatch) -> None:
    path = tmp_path / "library.zarr"
    whole = planner(Noisy()).run(seed=3)
    calls = []

    def stopped(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # the first is for the shapes, this one in round two
            raise KeyboardInterrupt
        return solve_group(*args)

    with monkeypatch.context() as patch:
        patch.setattr("pyro_geo.planning.offline_run.solve_group", stopped)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            part = planner(Noisy()).run(seed=3, store=path)
    assert len(part) == 8
    assert same(whole, planner(Noisy()).resume(path, seed=3))
    assert same(whole, planner(Noisy()).resume(path, seed=3))  # complete by now
    with pytest.raises(CheckpointError):
        planner(Noisy()).resume(path, seed=4)


def test_libraries_are_files_of_plain_tensors(tmp_path) -> None:
    own = planner(Noisy(1.0))
    library = own.run(seed=3)
    library.save(tmp_path / "library.pt")
    found = OfflineLibrary.load(tmp_path / "library.pt", own)
    assert same(library, found)
    assert found.failed == library.failed
    assert found.parameters == ("push",)


def test_networks_are_solved_exactly() -> None:
    problem = melanoma(unknown=[("RET1", 3)])
    sets = problem.network.rule_sets().float()
    backend = TabularBackend.of_network(problem, tolerance=0.1)
    library = OfflinePlanner(sets, None, backend).run()
    exact = problem.solve(problem.network.rule_sets(), tolerance=0.1).action_values
    rows = torch.tensor([0, 5, 1023])
    torch.testing.assert_close(library.q(rows)[0], exact[:, rows])
    bits = (rows[:, None] >> torch.arange(9, -1, -1)) & 1
    torch.testing.assert_close(library.q(bits)[0], exact[:, rows])


def line(noise: float) -> LinearQuadratic:
    one = torch.eye(1, dtype=torch.float64)
    return LinearQuadratic(
        0.9 * one,
        0.5 * one,
        state_cost=one,
        action_cost=0.1 * one,
        noise=noise * one,
        limit=3.0,
        actions=torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None],
    )


def test_a_fine_grid_has_the_riccati_values() -> None:
    plant = line(0.05)
    plant.actions = torch.linspace(-3, 3, 121, dtype=torch.float64)[:, None]
    theta = torch.tensor([[0.9, 0.5], [0.8, -0.6]], dtype=torch.float64)
    backend = GridBackend([torch.linspace(-4, 4, 401)])
    library = OfflinePlanner(theta, plant, backend).run()
    s = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    _, P = plant.optimal(theta, discount=0.95)
    exact = -P[:, 0] * s[:, 0] ** 2 - 0.95 / 0.05 * P[:, 0] * 0.05**2
    found = library.q(s)[0].amax(-1)
    assert float((found - exact).abs().max()) < 5e-3


def test_a_periodic_axis_goes_round() -> None:
    plant = Pendulum()
    angles = torch.linspace(-torch.pi, torch.pi, 25)[:-1]
    backend = GridBackend(
        [angles, torch.linspace(-8, 8, 21)],
        coordinates=lambda s: torch.stack(
            [torch.atan2(s[..., 1], s[..., 0]), s[..., 2]], -1
        ),
        states=lambda x: torch.stack([x[..., 0].cos(), x[..., 0].sin(), x[..., 1]], -1),
        periodic=[0],
        num_actions=3,
        tolerance=0.1,
    )
    theta = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    library = OfflinePlanner(theta, plant, backend).run()
    turn = torch.tensor([torch.pi - 1e-6, -torch.pi + 1e-6]).double()
    rest = torch.zeros(2).double()
    q, _ = library.q(torch.stack([turn.cos(), turn.sin(), rest], -1))
    torch.testing.assert_close(q[0, 0], q[0, 1], atol=1e-3, rtol=0)
    up, _ = library.q(torch.tensor([[1.0, 0.0, 0.0]]).double())
    assert float(up.amax()) > float(q.amax()) + 5


def test_policy_iteration_finds_the_values_of_the_grid() -> None:
    plant = line(0.0)
    theta = torch.tensor([[0.9, 0.5], [0.8, -0.6]], dtype=torch.float64)
    exact = OfflinePlanner(
        theta, plant, GridBackend([torch.linspace(-4, 4, 201)])
    ).run()
    backend = GPTDPolicyIteration(num_steps=60, held_out=4, horizon=10, fit_steps=15)
    library = OfflinePlanner(theta, plant, backend).run()
    s = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    (mean, variance), (truth, _) = library.q(s), exact.q(s)
    error = (mean - truth).square().mean((1, 2)) / truth.var((1, 2))
    assert float(error.max()) < 0.01
    gain, _ = plant.optimal(theta, discount=0.95)
    chosen = backend.bound(plant).grid[mean.argmax(-1)][..., 0]
    assert float((chosen + gain[:, 0] * s[:, 0]).abs().max()) <= 0.51
    assert bool((variance >= 0).all())


@pytest.mark.usefixtures("double_precision")
def test_values_are_not_those_of_a_first_policy() -> None:
    # the greedy policy of the first sweep earns a little more on the held-out states,
    # but the values of that sweep are those of doing nothing
    theta = torch.tensor([[0.9, 0.9], [0.95, -1.1]])
    sizes: Any = {"num_steps": 40, "max_sweeps": 4, "fit_steps": 15}
    plant = unknown_sign()
    backend = GPTDPolicyIteration(**sizes).bound(plant)
    learned = backend.learn(theta, [1, 3])
    assert float(learned.diagnostics["bellman"].max()) < 0.1
    grid = GridBackend([torch.linspace(-6, 6, 121)]).bound(plant)
    s = torch.linspace(-2, 2, 9)[:, None]
    exact, _ = grid.q(grid.learn(theta, [0, 0]).tensors, s)
    mean, _ = backend.q(learned.tensors, s)
    error = (mean - exact).square().mean((1, 2)) / exact.var((1, 2))
    assert float(error.max()) < 0.05


@pytest.mark.parametrize("explore", ["epsilon", "softmax", "active", "thompson", "ucb"])
def test_every_exploring_rule_learns_to_push_back(explore: Any) -> None:
    plant = line(0.05)
    theta = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    backend = GPSarsa(
        num_episodes=6, episode_steps=12, fit_steps=8, explore=explore, discount=0.8
    )
    library = OfflinePlanner(theta, plant, backend).run(seed=1)
    s = torch.tensor([[1.5], [-1.5]], dtype=torch.float64)
    a = backend.bound(plant).grid[library.q(s)[0][0].argmax(-1)][:, 0]
    assert float(a[0]) < 0 < float(a[1])


def test_old_steps_keep_the_action_taken_unless_relinked() -> None:
    plant, theta = line(0.05), torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    options: Any = {"num_episodes": 3, "episode_steps": 10, "fit_steps": 4}
    taken, linked = (
        OfflinePlanner(theta, plant, GPSarsa(relink=relink, **options)).run(seed=1)
        for relink in (False, True)
    )
    # on a path the next node is the node of the next row
    x, x_next = taken.tensors["x"][0], taken.tensors["x_next"][0].squeeze(-2)
    inside = torch.arange(29) % 10 != 9
    torch.testing.assert_close(x_next[:-1][inside], x[1:][inside])
    assert not torch.equal(
        linked.tensors["x_next"][0].squeeze(-2)[:-1][inside],
        linked.tensors["x"][0][1:][inside],
    )
    returns = GPSarsa(relink=False, noise="return", **options)
    library = OfflinePlanner(theta, plant, returns).run(seed=1)
    assert bool(library.q(torch.zeros(1, 1).double())[0].isfinite().all())


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_functions_make_a_plant_and_noise_a_quadrature(nodes: int) -> None:
    plant = Simulator(
        lambda theta, s, a, noise: theta * s + a + 0.3 * noise,
        lambda s, a, s_next: -s_next.square().sum(-1),
        lambda shape, g: torch.randn(*shape, 1, generator=g, dtype=torch.float64),
        parameters=["keep"],
        actions=torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None],
        theta=torch.tensor([0.5]),
    )
    theta = torch.tensor([[0.5]], dtype=torch.float64)
    options: Any = {"num_steps": 20, "max_sweeps": 1, "fit_steps": 0, "horizon": 1}
    backend = GPTDPolicyIteration(successors=nodes, **options)
    library = OfflinePlanner(theta, plant, backend).run()
    # expected squares are exact from two nodes on
    x = library.tensors["x"][0]
    expected = (0.5 * x[:, 0] + x[:, 1]).square() + (0.09 if nodes > 1 else 0.0)
    torch.testing.assert_close(library.tensors["reward"][0], -expected)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(DiscountError, match="discount"):
        GPTDPolicyIteration(discount=1.0)
    with pytest.raises(ConfigurationError, match="relink"):
        GPSarsa(noise="return")
    with pytest.raises(ConfigurationError, match="explore"):
        GPSarsa(explore="greedy")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="plant"):
        _ = GPSarsa().grid
    with pytest.raises(ConfigurationError, match="num_draws"):
        planner(Noisy(), num_draws=0)
    assert unknown_sign().actions is not None
