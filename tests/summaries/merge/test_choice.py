"""Starts and numbers of steps that inputs held back decide on."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_geo.errors import ConfigurationError, LayoutMismatchError
from pyro_geo.summaries.merge import (
    average,
    build_subspace,
    frechet_merge,
    gram,
    layer_statistics,
    regression_starts,
)
from pyro_geo.summaries.merge._networks import Network

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore::pyro_geo.errors.SubspaceResidualWarning"),
]
PIXELS, INPUTS, CLASSES, TASKS = 120, 24, 3, 3
State = dict[str, Tensor]


class Wide:
    """Few inputs with many pixels; the tasks' layers differ in every pixel."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.module = nn.Linear(PIXELS, CLASSES)
        size = PIXELS**-0.5
        self.base = {
            "weight": size * noise(CLASSES, PIXELS),
            "bias": torch.zeros(CLASSES),
        }
        common = self.base["weight"] + 4 * size * noise(CLASSES, PIXELS)
        self.models = {
            f"task {k}": {
                "weight": common + 2 * size * noise(CLASSES, PIXELS),
                "bias": noise(CLASSES),
            }
            for k in range(TASKS)
        }
        self.inputs = {task: noise(INPUTS, PIXELS) for task in self.models}
        self.others = {task: noise(2_000, PIXELS) for task in self.models}

    def forward(self, params: State, x: Tensor) -> Tensor:
        return functional_call(self.module, params, (x,))

    def divergence(self, params: State, inputs: dict[str, Tensor]) -> float:
        parts = []
        for task, x in inputs.items():
            p, q = (
                self.forward(state, x).log_softmax(-1)
                for state in (self.models[task], params)
            )
            parts.append((p.exp() * (p - q)).sum(-1).mean())
        return float(torch.stack(parts).mean())

    def gram(self, inputs: dict[str, Tensor]) -> State:
        found = {
            task: layer_statistics(self.module, x, params=self.models[task])
            for task, x in inputs.items()
        }
        return gram(self.base, self.models, statistics=found)

    def merge(self, **options: Any) -> Any:
        known = {"forwards": self.forward, "inputs": self.inputs}
        return frechet_merge(self.base, self.models, **{**known, **options})


@pytest.fixture(scope="module")
def wide() -> Wide:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return Wide()
    finally:
        torch.set_default_dtype(before)


def test_a_refinement_that_few_inputs_mislead_is_not_chosen(wide: Wide):
    seen, unseen = wide.inputs, wide.others
    mean = average(wide.base, wide.models)
    subspace = build_subspace(wide.base, wide.models, "full")
    plain = wide.merge(subspace=subspace, steps=3, held_out=0.0)
    assert plain.choice is None
    # as good as the tasks' own networks on the inputs that it sees, and on all others
    # half as far again from them as the mean
    assert wide.divergence(plain.state_dict, seen) < 1e-3
    assert wide.divergence(mean, seen) > 0.2
    assert wide.divergence(plain.state_dict, unseen) > 1.5 * wide.divergence(
        mean, unseen
    )
    found = wide.merge(subspace=subspace, steps=3)
    assert (found.choice.start, found.choice.steps) == ("mean", 0)
    assert found.choice.path[1] > found.choice.path[0]
    torch.testing.assert_close(found.state_dict, mean)


def test_the_choice_has_the_least_divergence_on_inputs_held_back(wide: Wide):
    starts = regression_starts(
        wide.base, wide.models, wide.module, off_diagonal=(1.0, 0.5)
    )
    found = wide.merge(starts=starts)
    choice = found.choice
    assert set(choice.starts) == {*starts, "base", "mean", "solution"}
    # in a network of one layer gram and crossing differ by rounding alone
    least = min(choice.starts[name] for name in starts)
    assert choice.direction in starts
    assert choice.starts[choice.direction] == pytest.approx(least, rel=1e-9)
    others = [choice.starts[x] for x in ("base", "mean", "solution", choice.direction)]
    assert choice.starts[choice.start] == choice.path[0] == min(others)
    assert choice.path[choice.steps] == min(choice.path)
    kl = found.report["held_out_kl"].values
    assert kl.mean() == pytest.approx(choice.path[choice.steps])
    # what was held back: a quarter at equal distances
    held = torch.arange(INPUTS) % 4 == 2
    some = {task: x[~held] for task, x in wide.inputs.items()}
    back = {task: x[held] for task, x in wide.inputs.items()}
    for name, start in starts.items():
        value = wide.divergence(start(some), back)
        assert choice.starts[name] == pytest.approx(value, rel=1e-9)


def test_the_merge_has_the_chosen_start_and_steps_on_all_inputs(wide: Wide):
    found = wide.merge(starts={"gram": wide.gram})
    choice = found.choice
    history = found.report.attrs["objective"]
    assert len(history) <= choice.steps + 1
    subspace = build_subspace(wide.base, wide.models, extra=[wide.gram(wide.inputs)])
    assert found.subspace.dim == subspace.dim
    back = found.subspace.point(found.subspace.coords(wide.gram(wide.inputs)))
    torch.testing.assert_close(back["weight"], wide.gram(wide.inputs)["weight"])


@pytest.mark.parametrize(("held_out", "sets"), [(0.25, 3), (0.0, 1)])
def test_the_tasks_own_models_are_evaluated_once_on_each_set_of_inputs(
    wide: Wide, held_out: float, sets: int, monkeypatch: pytest.MonkeyPatch
):
    count, reference = [0], Network.reference

    def counted(network: Network) -> Tensor:
        count[0] += 1
        return reference(network)

    monkeypatch.setattr(Network, "reference", counted)
    gram = {"one": wide.gram, "other": wide.gram}
    wide.merge(starts=gram, steps=1, held_out=held_out, kind="point")
    # inputs to choose on, those held back, and all
    assert count[0] == sets * TASKS


def test_a_start_made_from_all_inputs_cannot_be_judged_by_some_of_them(wide: Wide):
    honest = wide.merge(starts={"gram": wide.gram}).choice
    fixed = wide.merge(starts={"gram": wide.gram(wide.inputs)}).choice
    assert fixed.starts["gram"] < honest.starts["gram"] / 2


def test_enough_inputs_let_the_refinement_run(wide: Wide):
    many = {task: x[:600] for task, x in wide.others.items()}
    apart = {task: x[600:] for task, x in wide.others.items()}
    found = wide.merge(inputs=many, starts={"gram": wide.gram})
    plain = wide.merge(inputs=many, starts={"gram": wide.gram}, held_out=0.0)
    best, reached = (wide.divergence(x.state_dict, apart) for x in (plain, found))
    assert found.choice.steps > 0
    assert reached < wide.divergence(wide.gram(many), apart)
    assert reached < 1.01 * best


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": -0.1}, "held_out"),
        ({"starts": {"mean": {}}}, "starts"),
        ({"starts": {"a": {}}, "refine": None}, "starts"),
        ({"starts": {"weight": torch.zeros(2)}}, "start 'weight'"),
        ({"inputs": [torch.zeros(1, PIXELS)] * TASKS}, "'task 0'"),
    ],
)
def test_bad_options_are_named(wide: Wide, options: dict, word: str):
    with pytest.raises(ConfigurationError, match=word):
        wide.merge(**options)


def test_one_input_stays_whatever_share_is_held_back(wide: Wide):
    two = {task: x[:2] for task, x in wide.inputs.items()}
    seen: list[int] = []

    def start(inputs: State) -> State:
        seen.extend(len(x) for x in inputs.values())
        return average(wide.base, wide.models)

    wide.merge(inputs=two, starts={"own": start}, held_out=0.95, steps=1)
    assert seen[:TASKS] == [1] * TASKS


def test_a_start_of_another_layout_is_named(wide: Wide):
    with pytest.raises(LayoutMismatchError, match="start short"):
        wide.merge(starts={"short": {"weight": torch.zeros(CLASSES, PIXELS)}})
