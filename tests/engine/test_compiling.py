"""When a run is compiled: by its plan and the size of its graph, resumed or not."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from torch import Tensor

from pyro_geo.density import GraphSize, Target, ladder
from pyro_geo.density.compiling import worthwhile_steps
from pyro_geo.engine import Kernel, _bars
from pyro_geo.engine.compiling import CompileRecord, fewest_samples
from pyro_geo.engine.schedule import Counts, RunPlan, RunState
from pyro_geo.errors import CheckpointError
from pyro_geo.infer import DIMS, HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.testing.hmc import FixedHMC
from tests.cases import effects, numbers

Y = 2 * numbers(4, seed=2)
BLOCK = 25  # draws of each chain


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled: a compiler that rounds in its own way."""
    seen = []

    def pretend(graph, examples):
        seen.append(graph)
        return lambda *leaves: [
            x * (1 + 2**-52) if x.is_floating_point() else x for x in graph(*leaves)
        ]

    monkeypatch.setattr(ladder, "compile_graph", pretend)
    return seen


@pytest.fixture
def worth(monkeypatch):
    """Sets how many steps are worth compiling a graph of any size."""

    def set_to(steps: float) -> None:
        monkeypatch.setattr(
            "pyro_geo.engine.compiling.worthwhile_steps",
            lambda size: steps if size.operations else float("inf"),
        )

    return set_to


def normal(q: Tensor) -> Tensor:
    return 0.5 * (q * q).sum()


class Watched(FixedHMC):
    """One step for each draw; notes the rung of each block, and stops on request."""

    draws_per_block = BLOCK

    def __init__(self, stop: int | None = None) -> None:
        target = Target.from_potential(normal, 2, dtype=torch.float64)
        super().__init__(target, step_size=0.2, num_steps=1)
        self.rungs: list[str] = []
        self._stop = stop

    def block(self, *args: Any, **options: Any) -> Any:
        if len(self.rungs) == self._stop:
            raise Stop
        made = super().block(*args, **options)
        self.rungs.append(made.rung)
        return made


class Stop(Exception):
    """Ends a run at a block."""


def run(
    num_samples: int, kernel: Kernel | None = None, **options: Any
) -> tuple[MCMC, list[str]]:
    kernel = kernel or Watched()
    settings: dict[str, Any] = {"warmup_steps": 0, "num_chains": 2, "seed": 1}
    fit = MCMC(kernel, num_samples, progress_bar=False, **(settings | options))
    return fit, getattr(kernel, "rungs", [])


# -- what is worth compiling --------------------------------------------------------


def test_the_size_of_a_graph_is_its_operations_and_their_results():
    target = Target.from_potential(lambda q: (q * q).sum(), 3)
    lifted = target.lift("twice", lambda target, q: 2 * q + 1, "twice")
    assert lifted.size == GraphSize()
    lifted((), torch.ones(4, 3))
    # a product, a sum, and their result without history
    assert lifted.size == GraphSize(operations=3, elements=36)
    lifted((), torch.ones(4, 3), rung="mapped")
    assert lifted.size == GraphSize()


def test_the_size_is_that_of_what_this_sibling_has_asked_for():
    target = Target.from_potential(lambda q: (q * q).sum(), 3)
    target.value_and_grad(torch.ones(4, 3))
    assert target.graph_size.operations > 0
    assert target.with_rung("traced").graph_size == GraphSize()


def test_what_is_worth_compiling_scales_as_costs_do():
    small, large = GraphSize(200, 10_000), GraphSize(4000, 200_000)
    # a large graph has the start of the compiler in proportion
    assert 3_000 < worthwhile_steps(large) < worthwhile_steps(small) < 40_000
    # numbers cost memory traffic that compiling saves
    assert worthwhile_steps(small._replace(elements=10**9)) < 100
    assert worthwhile_steps(small._replace(steps=2)) == 2 * worthwhile_steps(small)
    assert worthwhile_steps(GraphSize()) == float("inf")


def planned(draws: int, **counts: Any) -> RunState:
    graph = CompileRecord(GraphSize(operations=400))
    ready = [not counts.get("tuning", False)]
    counts.pop("tuning", None)
    return RunState([None], [1], ready, draws, 1, "traced", Counts(**counts), graph)


@pytest.mark.parametrize(
    ("state", "num_groups", "per_draw", "expected"),
    [
        # 10 steps for each of 50 draws; 1,000 steps are 100 draws more
        (planned(50, num_steps=520, warmup_num_steps=20), 1, None, 150),
        # each of four groups makes its own
        (planned(50, num_steps=520, warmup_num_steps=20), 4, None, 75),
        # before the first draw by what the kernel says, else by the warm-up
        (planned(0, num_steps=20, warmup_num_steps=20), 1, 5.0, 200),
        (planned(0, warmup_num_steps=400, warmup_iterations=100), 1, None, 250),
        # 100 of 200 transitions of warm-up are left, 4 steps each
        (
            planned(0, warmup_num_steps=400, warmup_iterations=100, tuning=True),
            1,
            None,
            150,
        ),
        # 8 steps each where trajectories have grown
        (
            planned(
                0,
                warmup_num_steps=400,
                warmup_iterations=100,
                warmup_rate=8.0,
                tuning=True,
            ),
            1,
            None,
            25,
        ),
        # the warm-up alone pays
        (
            planned(0, warmup_num_steps=1000, warmup_iterations=100, tuning=True),
            1,
            None,
            0,
        ),
        (planned(0), 1, None, None),
    ],
)
def test_the_draws_that_pay_follow_from_the_plan(
    state, num_groups, per_draw, expected, worth
):
    worth(1000)
    plan = RunPlan(0, 500, 4, 200)
    assert fewest_samples(state, plan, num_groups, per_draw) == expected


# -- when a run goes up -------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(75 + BLOCK, "tccc"), (74 + BLOCK, "tttt"), (1000, "t" + 39 * "c")],
)
def test_a_run_goes_up_at_the_first_boundary_where_it_pays(
    num_samples, expected, worth, graphs
):
    worth(75)
    fit, rungs = run(num_samples)
    fit.run()
    assert "".join(rung[0] for rung in rungs) == expected
    assert fit.rung == rungs[-1]
    assert len(graphs) == ("c" in expected)


def test_every_group_of_chains_pays(worth, graphs):
    worth(150)
    fit, rungs = run(100, chain_batch_size=1)
    fit.run()
    assert rungs == ["traced"] * 2 + ["compiled"] * 6
    assert len(graphs) == 1


def test_warm_up_is_planned_too(worth, graphs):
    worth(300)
    fit, rungs = run(100, warmup_steps=225)
    fit.run()
    assert rungs == ["traced"] + ["compiled"] * 12


def test_hmc_plans_by_its_warm_up_and_then_by_its_step_size(worth, graphs):
    target = Target.from_model(effects, Y, dtype=torch.float64)
    fit, _ = run(100, HMC(target), warmup_steps=100, num_chains=8)
    state = fit.run()
    kernel: Any = HMC(target)
    worth(1)
    boundaries = []

    class Counting(HMC):
        def adapt(self, target, state, chains, noise):
            made = super().adapt(target, state, chains, noise)
            boundaries.append((made.rung, self.steps_per_draw(made.state)))
            return made

    kernel = Counting(target)
    run(100, kernel, warmup_steps=100, num_chains=8)[0].run()
    assert [rung for rung, _ in boundaries] == ["traced"] + 3 * ["compiled"]
    *early, planned = [steps for _, steps in boundaries]
    assert early == [None] * 3
    made = (state.num_steps - state.warmup_num_steps) / 100
    assert planned == pytest.approx(made, rel=0.35)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.ConvergenceWarning")
def test_dims_goes_up_between_blocks(worth, graphs):
    worth(10)
    target = Target.from_potential(lambda q: (q[0] * q[1] - 1) ** 2, 2)
    kernel = DIMS(target, anchors=torch.ones(1, 2), velocity="isotropic", num_lanes=16)
    fit, _ = run(128, kernel, num_chains=1)  # two blocks
    assert fit.run().rung == "compiled"
    assert run(64, kernel, num_chains=1)[0].run().rung == "traced"


def test_without_a_graph_nothing_is_compiled(worth, graphs):
    def branch(q: Tensor) -> Tensor:
        return q.square().sum() * (1.0 if q[0] > 0 else 2.0)

    worth(1)
    with pytest.warns(UserWarning, match="one at a time"):
        target = Target.from_potential(branch, 2)
    fit, _ = run(100, FixedHMC(target, step_size=0.2, num_steps=2))
    assert fit.run().rung == "sequential"
    assert graphs == []


def test_pyros_runner_plans_as_much_as_was_done(monkeypatch, graphs):
    monkeypatch.setattr("pyro_geo.engine.pyro_adapter.worthwhile_steps", lambda _: 100)
    kernel = Watched()
    pyro.infer.MCMC(kernel, 200, warmup_steps=0, disable_progbar=True).run()
    assert kernel.rungs == ["traced"] * 2 + ["compiled"] * 2


# -- going on -----------------------------------------------------------------------


def test_a_stopped_run_goes_up_at_the_same_draw(tmp_path, worth, graphs):
    worth(75)
    whole, _ = run(120)
    whole.run()
    for stop in (1, 3):
        path = tmp_path / str(stop)
        with pytest.raises(Stop):
            run(120, Watched(stop), store=path)[0].run()
        fit, _ = run(120, store=path)
        assert torch.equal(fit.resume().positions, whole.positions)
        assert fit.rung == whole.rung == "compiled"


def test_a_longer_run_goes_on_where_it_would_have_been_the_same(
    tmp_path, worth, graphs
):
    worth(100)
    run(50, store=tmp_path / "run")[0].run()
    # at draw 25 compiling pays from 125 draws on
    fit, rungs = run(124, store=tmp_path / "run")
    fit.resume()
    assert set(rungs) == {"traced"}
    assert torch.equal(fit.positions, run(124)[0].run().positions)
    with pytest.raises(CheckpointError, match="below 125.*compile=False"):
        run(125, store=tmp_path / "run")[0].resume()


def test_a_finished_run_goes_up_at_its_end_if_that_was_due(tmp_path, worth, graphs):
    """The end of a run is a boundary that only a longer one goes past."""
    worth(100)
    run(BLOCK, store=tmp_path / "run")[0].run()
    fit, rungs = run(200, store=tmp_path / "run")
    fit.resume()
    assert set(rungs) == {"compiled"}
    assert torch.equal(fit.positions, run(200)[0].run().positions)


def test_stored_draws_that_are_all_traced_go_on_traced(tmp_path, worth, graphs):
    worth(100)
    run(100, store=tmp_path / "run")[0].run()
    with pytest.raises(CheckpointError, match="found 'auto' and num_samples=1000"):
        run(1000, store=tmp_path / "run")[0].resume()
    with pytest.raises(CheckpointError, match="found True.*compile=False"):
        run(1000, store=tmp_path / "run", compile=True)[0].resume()
    fit, rungs = run(200, store=tmp_path / "run", compile=False)
    fit.resume()
    assert set(rungs) == {"traced"}
    assert torch.equal(fit.positions, run(200, compile=False)[0].run().positions)


def test_stored_draws_that_are_all_compiled_go_on_compiled(tmp_path, worth, graphs):
    worth(75)
    run(100, store=tmp_path / "run", compile=True)[0].run()
    for other in ("auto", False):
        with pytest.raises(CheckpointError, match="Pass compile=True"):
            run(200, store=tmp_path / "run", compile=other)[0].resume()
    fit, rungs = run(200, store=tmp_path / "run", compile=True)
    fit.resume()
    assert set(rungs) == {"compiled"}
    assert torch.equal(fit.positions, run(200, compile=True)[0].run().positions)


def test_draws_on_both_rungs_go_on_for_as_many_as_agree(tmp_path, worth, graphs):
    worth(100)
    path = tmp_path / "run"
    with pytest.raises(Stop):  # at draw 25 by a plan of 150 draws
        run(150, Watched(4), store=path)[0].run()
    for choice in (True, False):
        with pytest.raises(CheckpointError, match="at least 125.*first stored draws"):
            run(150, store=path, compile=choice)[0].resume()
    with pytest.raises(CheckpointError, match="num_samples=124.*at least 125"):
        run(124, store=path)[0].resume()
    fit, _ = run(500, store=path)
    assert torch.equal(fit.resume().positions, run(500)[0].run().positions)


def test_an_earlier_boundary_that_a_longer_run_would_not_have_passed(
    tmp_path, monkeypatch, graphs
):
    """Steps of a draw that grow: the plan of the first boundary was too short."""

    class Growing(Watched):
        def block(self, *args: Any, **options: Any) -> Any:
            made = super().block(*args, **options)
            return made._replace(num_steps=100 * len(self.rungs))

    monkeypatch.setattr("pyro_geo.engine.compiling.worthwhile_steps", lambda _: 500)
    path = tmp_path / "run"
    fit, rungs = run(125, Growing(), store=path)
    fit.run()
    # 4 steps for each of 100 draws at the first boundary, 6 for each of 75 at the next
    assert rungs == ["traced"] * 5
    fit, rungs = run(140, Growing(), store=tmp_path / "other")
    fit.run()
    assert rungs == ["traced"] * 2 + ["compiled"] * 4
    found = "below 150 and at least 134"
    with pytest.raises(CheckpointError, match=found):
        run(150, Growing(), store=tmp_path / "other")[0].resume()
    with pytest.raises(CheckpointError, match="below 134"):
        run(140, Growing(), store=path)[0].resume()


def test_the_record_is_one_of_counts():
    record = CompileRecord()
    assert record.passed("traced", None, 0) == record
    once = record.passed("traced", 90, 10).passed("traced", 120, 20)
    assert (once.below, once.since, once.least) == (90, None, 0)
    up = once.passed("compiled", 80, 30)
    assert (up.below, up.since, up.least) == (90, 30, 80)
    assert up.passed("compiled", 5, 40) is up
    # compiled where "auto" would not be: it agrees for no number of draws
    forced = record.passed("compiled", None, 0)
    for count in (1, 10**9):
        with pytest.raises(CheckpointError):
            forced.check("store", "auto", count)
    forced.check("store", True, 1)


# -- showing it ---------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """What the bars say, without saying it twice in a row."""
    said: list[str] = []
    monkeypatch.setattr(_bars.sys.stderr, "isatty", lambda: True)
    whole = _bars.tqdm.set_description

    def note(bar: Any, desc: str, refresh: bool = True) -> None:
        if said[-1:] != [desc]:
            said.append(desc)
        whole(bar, desc, refresh=False)

    monkeypatch.setattr(_bars.tqdm, "set_description", note)
    return said


def test_compiling_shows_on_the_bar_with_the_size_of_the_graph(shown, worth, graphs):
    worth(75)
    kernel = Watched()
    MCMC(kernel, 100, 0, 2, seed=1).run()
    target: Any = kernel.model
    (lifted,) = target._lifted.values()
    text = f"compiling a graph of {lifted.size.operations:,} operations"
    assert shown == ["warm up", text, "sample"]
    shown.clear()
    MCMC(Watched(), 100, 0, 2, seed=1, compile=True).run()
    assert shown == ["warm up", text, "sample"]
    shown.clear()
    MCMC(Watched(), 100, 0, 2, seed=1, compile=False).run()
    assert shown == ["warm up", "sample"]


def test_compiling_shows_on_the_bar_of_an_annealing_path(shown, monkeypatch, graphs):
    monkeypatch.setattr("pyro_geo.density.batched.worthwhile_steps", lambda size: 3)

    def model(x):
        return x * pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))

    gibbs = GibbsModel(model, lambda f, y: (f - y) ** 2)
    options: dict[str, Any] = {"num_particles": 8, "pilot_particles": 8, "seed": 1}
    path = GibbsPosterior(gibbs, betas=[0.1], method="langevin", **options)
    path.run(torch.ones(3), torch.ones(3))
    text = f"compiling a graph of {GraphSize.of(graphs[0]).operations:,} operations"
    assert shown == [text, "annealing"]
