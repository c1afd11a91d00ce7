"""Merges of networks: subspaces, refinement, heads, buffers, and bad input."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_geo.errors import (
    AveragedStatisticsWarning,
    ConfigurationError,
    LayoutMismatchError,
    NonFiniteParameterError,
)
from pyro_geo.geometry.subspace import FactoredBlock
from pyro_geo.summaries.merge import build_subspace, frechet_merge, subspaces

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    # small random networks: what the subspace leaves out is beside the point here
    pytest.mark.filterwarnings("ignore::pyro_geo.errors.SubspaceResidualWarning"),
]


def network(*, norm: bool = False) -> nn.Module:
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).eval()


def copies(module: nn.Module, count: int = 3, size: float = 0.5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    base = {name: x.clone() for name, x in module.state_dict().items()}

    def moved(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x + 7
        return x + size * torch.randn(x.shape, generator=generator)

    models = {
        f"task {k}": {name: moved(x) for name, x in base.items()} for k in range(count)
    }
    return base, models


def inputs(count: int = 3, n: int = 40) -> dict[str, Tensor]:
    return {f"task {k}": torch.randn(n, 5) + 0.5 * k for k in range(count)}


def call(module: nn.Module):
    return lambda p, x: functional_call(module, p, (x,))


def test_the_dimension_of_each_subspace():
    base, models = copies(network(), 2)
    dims = {
        kind: build_subspace(base, models, kind).dim
        for kind in ("span", "block", "singular", "full")
    }
    # matrices 8 x 5 and 3 x 8: 2 + 1 components of each of two tasks
    assert dims == {"span": 2, "block": 8, "singular": 4 + 2 + 2 + 2, "full": 75}
    layers = build_subspace(
        base, models, "block", groups=lambda name: name.partition(".")[0]
    )
    assert layers.dim == 4
    doubled = {**models, "again": models["task 0"]}
    assert build_subspace(base, doubled, "span").dim == 2


@pytest.mark.parametrize("kind", ["span", "block", "singular"])
def test_what_is_passed_as_extra_lies_inside(kind: str):
    base, models = copies(network(), 3)
    _, (more, *_) = copies(network(), 1, seed=5)[0], list(copies(network())[1].values())
    target = {name: x + 0.1 * torch.randn_like(x) for name, x in more.items()}
    subspace = build_subspace(base, models, kind, extra=[target])
    back = subspace.point(subspace.coords(target))
    for name, value in target.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-10)


def test_large_matrices_are_stored_as_factors_and_mean_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    base, models = copies(network(), 2)
    more = [copies(network())[0]]
    dense = build_subspace(base, models, "singular", extra=more)
    monkeypatch.setattr(subspaces, "_DENSE", 0)
    factored = build_subspace(base, models, "singular", extra=more)
    assert any(isinstance(block, FactoredBlock) for block in factored.blocks)
    assert factored.dim == dense.dim
    state = models["task 0"]
    near, same = (s.point(s.coords(state)) for s in (dense, factored))
    for name in base:
        torch.testing.assert_close(same[name], near[name], rtol=0, atol=1e-10)
    columns = [
        torch.cat([x.flatten() for x in factored.direction(i).values()])
        for i in range(factored.dim)
    ]
    gram = torch.stack(columns) @ torch.stack(columns).T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-10)


def test_the_top_components_are_those_of_the_decomposition():
    base, models = copies(network(), 1)
    subspace = build_subspace(base, models, "singular", rank_fraction=0.4)
    name = "0.weight"
    u, s, v = torch.linalg.svd(models["task 0"][name] - base[name])
    kept = subspace.lift(subspace.coords(models["task 0"]))[name]
    expected = (u[:, :2] * s[:2]) @ v[:2]  # 0.4 of five
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-10)


def test_the_refinement_lowers_the_divergence_of_equation_and_metrics_do_too():
    module = network()
    base, models = copies(module)
    data, forward = inputs(), call(module)
    subspace = build_subspace(base, models, "singular", rank_fraction=2.0)
    options: dict[str, Any] = {"forwards": forward, "inputs": data}
    mean = {n: torch.stack([m[n] for m in models.values()]).mean(0) for n in base}
    plain = frechet_merge(base, models, None, subspace, refine=None, **options)
    refined = frechet_merge(base, models, None, subspace, **options)
    history = refined.report.attrs["objective"]
    assert history == sorted(history, reverse=True)
    assert refined.report.kl.mean() == pytest.approx(history[-1])
    at_mean = frechet_merge(
        base, {"mean": mean}, None, None, forwards=forward, inputs=[data["task 0"]]
    )
    assert at_mean.report.kl.item() == pytest.approx(0.0, abs=1e-12)
    assert float(refined.report.kl.mean()) < float(plain.report.kl.mean())


def test_the_refinement_begins_at_the_best_start():
    module = network()
    base, models = copies(module)
    data, forward = inputs(), call(module)
    subspace = build_subspace(base, models, "block", extra=[models["task 0"]])
    options: dict[str, Any] = {"forwards": forward, "inputs": data, "steps": 1}
    usual = frechet_merge(base, models, None, subspace, **options)
    good = usual.state_dict
    again = frechet_merge(base, models, None, subspace, starts=[good], **options)
    first = again.report.attrs["objective"][0]
    assert first == pytest.approx(usual.report.attrs["objective"][-1], rel=1e-12)
    bad = {name: x + 100 for name, x in base.items()}
    same = frechet_merge(base, models, None, subspace, starts=[bad], **options)
    torch.testing.assert_close(same.coords, usual.coords)


def test_the_refinement_finds_the_minimum_of_a_convex_problem():
    # logits linear in the parameters: the divergence is convex
    base = {"w": torch.zeros(3, 5)}
    models = [{"w": torch.randn(3, 5)} for _ in range(3)]
    data = [torch.randn(60, 5) for _ in range(3)]

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return x @ p["w"].T

    subspace = build_subspace(base, models, "full")
    found = frechet_merge(base, models, None, subspace, forwards=forward, inputs=data)

    def objective(w: Tensor) -> Tensor:
        parts = []
        for state, x in zip(models, data, strict=True):
            p = (x @ state["w"].T).softmax(-1)
            parts.append(-(p * (x @ w.T).log_softmax(-1)).sum(-1).mean())
        return torch.stack(parts).mean()

    w = torch.zeros(3, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(w)
        value.backward()
        return value

    optimizer.step(closure)
    least = float(objective(w.detach()))
    start = float(objective(torch.zeros(3, 5)))
    excess = float(objective(found.state_dict["w"])) - least
    assert 0 <= excess < 1e-3 * (start - least)


def test_confident_networks_stay_finite():
    module = network()
    base, models = copies(module)

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return 60 * functional_call(module, p, (x,))

    found = frechet_merge(base, models, forwards=forward, inputs=inputs())
    assert all(x.isfinite().all() for x in found.state_dict.values())
    assert found.report.to_array().isnull().sum() == 0


def test_types_and_order_of_the_base_come_back_and_nothing_is_changed():
    module = network().float()
    base, models = copies(module)
    base = {name: x.to(torch.bfloat16) for name, x in base.items()}
    models = {t: {n: x.float() for n, x in m.items()} for t, m in models.items()}
    before = {n: x.clone() for n, x in models["task 1"].items()}
    data, state = inputs(), torch.get_rng_state()
    found = frechet_merge(
        base, models, forwards=call(module), inputs=data, steps=1
    ).state_dict
    assert list(found) == list(base)
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    assert all(torch.equal(before[n], x) for n, x in models["task 1"].items())
    torch.testing.assert_close(torch.get_rng_state(), state)


def test_batches_and_chunks_change_nothing():
    module = network()
    base, models = copies(module)
    options: dict[str, Any] = {"forwards": call(module), "inputs": inputs(), "steps": 2}
    one = frechet_merge(base, models, **options)
    two = frechet_merge(base, models, **options, batch_size=7, chunk_size=3)
    torch.testing.assert_close(two.coords, one.coords, rtol=0, atol=1e-9)


def test_heads_of_their_own_stay_and_are_used():
    base, models = copies(network())
    for k, state in enumerate(models.values()):  # as many classes as the task has
        state["2.weight"], state["2.bias"] = torch.randn(k + 2, 8), torch.randn(k + 2)

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        h = torch.tanh(x @ p["0.weight"].T + p["0.bias"])
        return h @ p["2.weight"].T + p["2.bias"]

    def shared(name: str) -> bool:
        return not name.startswith("2.")

    found = frechet_merge(
        base, models, forwards=forward, inputs=inputs(), shared=shared
    )
    assert torch.equal(found.state_dict["2.weight"], base["2.weight"])
    assert not torch.equal(found.state_dict["0.weight"], base["0.weight"])
    # the report's divergence is that with each task's own head
    for task, x in inputs().items():
        assert forward({**found.state_dict, **models[task]}, x).shape[1] >= 2


def test_running_statistics_are_averaged_and_named():
    module = network(norm=True)
    base, models = copies(module, size=0.1)
    with pytest.warns(AveragedStatisticsWarning, match="1.running_mean"):
        found = frechet_merge(
            base, models, forwards=call(module), inputs=inputs(), weights=[1, 1, 2]
        ).state_dict
    rows = [m["1.running_var"] for m in models.values()]
    expected = (rows[0] + rows[1] + 2 * rows[2]) / 4
    torch.testing.assert_close(found["1.running_var"], expected)
    # a counter of batches is copied from the base
    name = "1.num_batches_tracked"
    assert found[name] == base[name] != models["task 0"][name]


def test_the_report_has_a_row_for_each_task():
    module = network()
    base, models = copies(module)
    found = frechet_merge(base, models, forwards=call(module), inputs=inputs())
    report = found.report
    assert list(report.task.values) == list(models)
    assert set(report) == {
        "weight",
        "predicted_kl",
        "trace",
        "kept",
        "residual",
        "kl",
        "held_out_kl",
    }
    assert report.attrs["variance"] == found.variance
    assert "MergeResult(3 tasks" in repr(found)


def merge(base: dict, models: Any, **options: Any) -> Any:
    defaults = {"forwards": call(network()), "inputs": inputs()}
    return frechet_merge(base, models, **{**defaults, **options})


def test_bad_models_are_named():
    base, models = copies(network())
    nan = {**models["task 1"], "2.bias": torch.full((3,), torch.nan)}
    with pytest.raises(NonFiniteParameterError, match=r"'task 1'.*'2.bias'.*3 of 3"):
        merge(base, {**models, "task 1": nan})
    short = {**models["task 2"], "0.bias": torch.zeros(4)}
    with pytest.raises(
        LayoutMismatchError, match=r"'task 2'.*'0.bias'.*\(4,\).*\(8,\)"
    ):
        merge(base, {**models, "task 2": short})
    less = {n: x for n, x in models["task 0"].items() if n != "2.weight"}
    with pytest.raises(LayoutMismatchError, match=r"'2.weight'.*no such tensor"):
        merge(base, {**models, "task 0": less})
    more = {**models["task 0"], "third": torch.zeros(1)}
    with pytest.raises(LayoutMismatchError, match=r"'third'"):
        merge(base, {**models, "task 0": more})
    whole = {**models["task 0"], "0.bias": torch.zeros(8, dtype=torch.int64)}
    with pytest.raises(LayoutMismatchError, match="int64"):
        merge(base, {**models, "task 0": whole})
    with pytest.raises(NonFiniteParameterError, match="the base"):
        merge({**base, "0.bias": torch.full((8,), torch.inf)}, models)


def test_outputs_that_are_not_finite_name_the_task():
    base, models = copies(network())
    data = inputs()
    data["task 2"][3] = torch.inf
    with pytest.raises(NonFiniteParameterError, match="'task 2'"):
        merge(base, models, inputs=data)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"weights": [1.0, 2.0]}, "weights"),
        ({"weights": [1.0, 0.0, 2.0]}, "weights"),
        ({"weights": {"other": 1.0}}, "weights"),
        ({"weights": "equal"}, "weights"),
        ({"inputs": {"task 0": torch.zeros(3, 5)}}, "inputs"),
        ({"inputs": [torch.zeros(0, 5)] * 3}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": None, "forwards": None}, "metrics"),
        ({"kind": "posterior"}, "kind"),
        ({"damping": -1.0}, "damping"),
        ({"damp_to": "zero"}, "damp_to"),
        ({"refine": "newton"}, "refine"),
        ({"scale": 0.0}, "scale"),
        ({"likelihood": "poisson"}, "likelihood"),
    ],
)
def test_bad_options_are_named(options: dict, word: str):
    base, models = copies(network())
    with pytest.raises(ConfigurationError, match=word):
        merge(base, models, **options)


def test_no_models_and_bad_subspaces_are_named():
    base, models = copies(network())
    wrongs: list[Any] = [{}, [], base, "models"]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError, match="models"):
            build_subspace(base, wrong)
    with pytest.raises(ConfigurationError, match="copies of the base"):
        build_subspace(base, [base, base])
    with pytest.raises(ConfigurationError, match="kind"):
        build_subspace(base, models, "random")
    with pytest.raises(ConfigurationError, match="rank_fraction"):
        build_subspace(base, models, rank_fraction=0.0)
    with pytest.raises(LayoutMismatchError, match="'extra 0'"):
        build_subspace(base, models, extra=[{}])
    with pytest.raises(ConfigurationError, match="no floating tensor"):
        build_subspace({"n": torch.tensor(1)}, [{"n": torch.tensor(2)}])


@pytest.mark.parametrize("kind", ["singular", "block", "span", "full"])
def test_an_empty_tensor_has_no_directions(kind):
    base = {"w": torch.zeros(3, 0), "v": torch.zeros(0, 3), "u": torch.zeros(2, 2)}
    models = [{**base, "u": torch.eye(2)}, {**base, "u": torch.ones(2, 2)}]
    alone = build_subspace({"u": base["u"]}, [{"u": m["u"]} for m in models], kind)
    assert build_subspace(base, models, kind).dim == alone.dim


def test_extra_parameters_repeat_no_warning():
    base, models = copies(network(norm=True))
    more = [next(iter(models.values()))]
    with pytest.warns(AveragedStatisticsWarning) as caught:
        build_subspace(base, models, "block", extra=more)
    assert len(caught) == 1
    broken = {**more[0], "0.weight": torch.full((8, 5), torch.nan)}
    with (
        pytest.warns(AveragedStatisticsWarning),
        pytest.raises(NonFiniteParameterError, match="extra 0"),
    ):
        build_subspace(base, models, "block", extra=[broken])


def test_metrics_of_no_task_are_refused():
    base, models = copies(network())
    for none in ({}, []):
        with pytest.raises(ConfigurationError, match="metrics"):
            frechet_merge(base, models, none)
        with pytest.raises(ConfigurationError, match="metrics"):
            frechet_merge(base, models, none, forwards=call(network()), inputs=inputs())
