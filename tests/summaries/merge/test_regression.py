"""Merging from measured statistics, against dense solutions and pooled fits."""

import pytest
import torch
from torch import nn

from pyro_geo.errors import ConfigurationError, LayoutMismatchError
from pyro_geo.summaries.merge.baselines import (
    average,
    fisher,
    gram,
    regmean,
    regmean_pp,
    regression,
    task_arithmetic,
)
from pyro_geo.summaries.merge.statistics import layer_statistics

TASKS = "pqr"
WEIGHTS = {"p": 0.5, "q": 0.2, "r": 0.3}


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def problem(make=network, shape=(4,)):
    torch.manual_seed(0)
    base = make()
    nets = {task: make() for task in TASKS}
    inputs = {task: torch.randn(20, *shape).double() for task in TASKS}
    models = {task: net.state_dict() for task, net in nets.items()}
    statistics = {task: layer_statistics(nets[task], inputs[task]) for task in TASKS}
    return base, models, inputs, statistics


def full_merge(points, metrics, weights):
    """The locally constant merge with dense metrics, equation (1)."""
    total = sum(w * g for w, g in zip(weights, metrics, strict=True))
    pulls = zip(weights, metrics, points, strict=True)
    return torch.linalg.solve(total, sum(w * g @ z for w, g, z in pulls))


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_fisher_is_the_merge_with_diagonal_metrics():
    base, models, _, _ = problem()
    torch.manual_seed(1)
    diagonals = {
        task: {k: torch.rand_like(v) for k, v in state.items()}
        for task, state in models.items()
    }
    found = fisher(base.state_dict(), models, statistics=diagonals, weights=WEIGHTS)
    for name, value in found.items():
        points = [models[task][name].flatten() for task in TASKS]
        metrics = [torch.diag(diagonals[task][name].flatten()) for task in TASKS]
        close(value.flatten(), full_merge(points, metrics, WEIGHTS.values()))


def test_fisher_on_disjoint_blocks_is_task_arithmetic():
    base = {"w": torch.arange(6.0).double()}
    models, diagonals = [], []
    for k in range(3):
        block = torch.zeros(6).double()
        block[2 * k : 2 * k + 2] = 1.0
        models.append({"w": base["w"] + (k + 2) * block})
        diagonals.append({"w": (k + 0.5) * block})
    found = fisher(base, models, statistics=diagonals)
    close(found["w"], task_arithmetic(base, models, scale=1.0)["w"])


def test_fisher_with_multiples_of_one_is_a_weighted_mean():
    base, models, _, _ = problem()
    levels = {"p": 3.0, "q": 0.1, "r": 1.0}
    flat = {
        task: {k: torch.full_like(v, levels[task]) for k, v in state.items()}
        for task, state in models.items()
    }
    found = fisher(base.state_dict(), models, statistics=flat, weights=WEIGHTS)
    weights = {task: WEIGHTS[task] * levels[task] for task in TASKS}
    mean = average(base.state_dict(), models, weights=weights)
    for name in found:
        close(found[name], mean[name])


def test_regmean_is_the_merge_with_kronecker_metrics():
    base, models, _, statistics = problem()
    found = regmean(
        base.state_dict(),
        models,
        statistics=statistics,
        off_diagonal=1.0,
        weights=WEIGHTS,
    )
    for layer in ("0", "2"):
        name = f"{layer}.weight"
        rows = len(found[name])
        points = [models[task][name].flatten() for task in TASKS]
        # rows of a weight lie one after the other: I (x) E[x x']
        metrics = [
            torch.kron(torch.eye(rows).double(), statistics[task][layer]["moment"][0])
            for task in TASKS
        ]
        close(found[name].flatten(), full_merge(points, metrics, WEIGHTS.values()))
    mean = average(base.state_dict(), models, weights=WEIGHTS)
    close(found["0.bias"], mean["0.bias"])


def test_regmean_scales_what_is_off_the_diagonal():
    base, models, _, statistics = problem()
    found = regmean(base.state_dict(), models, statistics=statistics, off_diagonal=0.9)
    moments = [statistics[task]["0"]["moment"][0] for task in TASKS]
    moments = [0.9 * g + 0.1 * torch.diag(g.diagonal()) for g in moments]
    total = sum(moments)
    pull = sum(models[t]["0.weight"] @ g for t, g in zip(TASKS, moments, strict=True))
    close(found["0.weight"], pull @ torch.linalg.inv(total))


def test_gram_is_regmean_on_inputs_with_a_one():
    base, models, inputs, statistics = problem()
    found = gram(base.state_dict(), models, statistics=statistics, weights=WEIGHTS)
    rows = {t: torch.cat([x, torch.ones(20, 1).double()], 1) for t, x in inputs.items()}
    total = sum(WEIGHTS[t] * rows[t].T @ rows[t] for t in TASKS)
    joined = {
        t: torch.cat([models[t]["0.weight"], models[t]["0.bias"][:, None]], 1)
        for t in TASKS
    }
    pull = sum(WEIGHTS[t] * joined[t] @ rows[t].T @ rows[t] for t in TASKS)
    merged = pull @ torch.linalg.inv(total)
    close(found["0.weight"], merged[:, :-1])
    close(found["0.bias"], merged[:, -1])


def test_gram_of_regressions_is_the_pooled_fit():
    torch.manual_seed(0)
    sizes = {"p": 9, "q": 15, "r": 30}
    x = {t: torch.randn(n, 4).double() + k for k, (t, n) in enumerate(sizes.items())}
    y = {t: torch.randn(n, 2).double() for t, n in sizes.items()}

    def fit(x, y):
        rows = torch.cat([x, torch.ones(len(x), 1).double()], 1)
        solved = torch.linalg.lstsq(rows, y).solution
        return {"0.weight": solved[:-1].T, "0.bias": solved[-1]}

    net = nn.Sequential(nn.Linear(4, 2)).double()
    models = {t: fit(x[t], y[t]) for t in sizes}
    statistics = {t: layer_statistics(net, x[t]) for t in sizes}
    found = gram(net.state_dict(), models, statistics=statistics, weights=sizes)
    pooled = fit(torch.cat(list(x.values())), torch.cat(list(y.values())))
    for name, value in pooled.items():
        close(found[name], value)


def test_convolutions_merge_to_least_squares_outputs():
    def make():
        return nn.Sequential(nn.Conv2d(4, 6, 2, groups=2)).double()

    base, models, inputs, statistics = problem(make, (4, 5, 5))
    found = gram(base.state_dict(), models, statistics=statistics)
    weight = found["0.weight"].requires_grad_()
    bias = found["0.bias"].requires_grad_()
    loss = torch.zeros(())
    for task in TASKS:
        own = nn.functional.conv2d(
            inputs[task], models[task]["0.weight"], models[task]["0.bias"], groups=2
        )
        ours = nn.functional.conv2d(inputs[task], weight, bias, groups=2)
        loss = loss + (ours - own).square().mean()
    slopes = torch.autograd.grad(loss, (weight, bias))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-12


@pytest.mark.parametrize("merge", [regmean, gram])
def test_embeddings_are_averaged_by_use(merge):
    net = nn.Sequential(nn.Embedding(3, 2)).double()
    models = [{"0.weight": k * torch.ones(3, 2).double()} for k in (1.0, 2.0)]
    statistics = [
        layer_statistics(net, torch.tensor(rows)) for rows in ([0, 0, 0, 1], [0, 1])
    ]
    found = merge(net.state_dict(), models, statistics=statistics)["0.weight"]
    # the last row is used by nobody
    close(found[:, 0], torch.tensor([1.4, 5 / 3, 1.5], dtype=torch.float64))


def test_directions_without_inputs_are_averaged():
    base, models, _, _ = problem()
    inputs = torch.zeros(5, 4).double()
    inputs[:, 0] = torch.arange(1.0, 6.0)
    statistics = {
        task: layer_statistics(base, (k + 1) * inputs) for k, task in enumerate(TASKS)
    }
    found = regmean(base.state_dict(), models, statistics=statistics)["0.weight"]
    mean = average(base.state_dict(), models)["0.weight"]
    close(found[:, 1:], mean[:, 1:])
    uses = [(k + 1) ** 2 * models[t]["0.weight"] for k, t in enumerate(TASKS)]
    by_use = torch.stack(uses).sum(0) / 14
    close(found[:, 0], by_use[:, 0])


@pytest.mark.parametrize("merge", [regmean, gram])
def test_one_task_equal_tasks_and_order(merge):
    base, models, _, statistics = problem()
    state = base.state_dict()
    alone = merge(state, [models["p"]], statistics=[statistics["p"]])
    same = merge(state, dict.fromkeys(TASKS, models["p"]), statistics=statistics)
    found = merge(state, models, statistics=statistics)
    turned = merge(state, dict(reversed(models.items())), statistics=statistics)
    for name in state:
        close(alone[name], models["p"][name])
        close(same[name], models["p"][name])
        close(found[name], turned[name])


@pytest.mark.parametrize("merge", [regmean, gram])
def test_ridge_and_scale(merge):
    base, models, _, statistics = problem()
    state = base.state_dict()
    far = merge(state, models, statistics=statistics, ridge=1e12)
    half = merge(state, models, statistics=statistics, scale=0.5)
    full = merge(state, models, statistics=statistics)
    for name, value in average(state, models).items():
        close(far[name], value, 1e-8)
        close(half[name], (state[name] + full[name]) / 2)


def test_multiplied_statistics_change_nothing():
    base, models, _, statistics = problem()
    state = base.state_dict()
    more = {
        t: {n: {p: 1e6 * v for p, v in parts.items()} for n, parts in s.items()}
        for t, s in statistics.items()
    }
    found = regmean(state, models, statistics=more)
    for name, value in regmean(state, models, statistics=statistics).items():
        close(found[name], value)


def test_regmean_pp_measures_behind_merged_layers():
    base, models, inputs, statistics = problem()
    state = base.state_dict()
    found = regmean_pp(state, models, module=base, inputs=inputs, off_diagonal=1.0)
    first = regmean(state, models, statistics=statistics, off_diagonal=1.0)
    close(found["0.weight"], first["0.weight"])
    hidden = {
        t: (inputs[t] @ first["0.weight"].T + first["0.bias"]).tanh() for t in TASKS
    }
    total = sum(h.T @ h for h in hidden.values())
    pull = sum(models[t]["2.weight"] @ h.T @ h for t, h in hidden.items())
    close(found["2.weight"], pull @ torch.linalg.inv(total))
    assert (found["2.weight"] - first["2.weight"]).abs().max() > 1e-3


def test_regmean_pp_with_the_bias_and_of_one_block():
    base, models, inputs, statistics = problem(lambda: nn.Sequential(network()))
    state = base.state_dict()
    # in one block every layer gets the inputs of the task's own network
    block = regmean_pp(
        state, models, module=base, inputs=inputs, blocks=["0"], fold_bias=True
    )
    plain = gram(state, models, statistics=statistics, off_diagonal=0.9)
    for name in state:
        close(block[name], plain[name])


def test_regmean_pp_of_equal_models_and_batch_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="running statistics"):
        found = regmean_pp(
            net.state_dict(),
            [net.state_dict()] * 2,
            module=net,
            inputs=[torch.randn(20, 4), torch.randn(20, 4)],
        )
    for name, value in net.state_dict().items():
        torch.testing.assert_close(found[name], value)


def test_statistics_that_do_not_fit():
    base, models, _, statistics = problem()
    state = base.state_dict()
    with pytest.raises(ConfigurationError, match="statistics"):
        regmean(state, models, statistics={"p": statistics["p"]})
    lacking = {**statistics, "q": {"0": statistics["q"]["0"]}}
    with pytest.raises(LayoutMismatchError, match=r"'2'.*'q'"):
        gram(state, models, statistics=lacking)
    swapped = {t: {"0": s["2"], "2": s["0"]} for t, s in statistics.items()}
    with pytest.raises(LayoutMismatchError, match=r"'0'.*\(3, 3\).*\(4, 4\)"):
        regmean(state, models, statistics=swapped)
    bare = {t: {"0": {"moment": s["0"]["moment"]}} for t, s in statistics.items()}
    with pytest.raises(LayoutMismatchError, match="mean"):
        gram(state, models, statistics=bare)
    with pytest.raises(ConfigurationError, match="off_diagonal"):
        regmean(state, models, statistics=statistics, off_diagonal=2.0)
    with pytest.raises(LayoutMismatchError, match=r"'p'.*'0\.weight'"):
        fisher(state, models, statistics={t: {} for t in TASKS})
    negative = {t: {k: -torch.ones_like(v) for k, v in state.items()} for t in TASKS}
    with pytest.raises(ConfigurationError, match="at least 0"):
        fisher(state, models, statistics=negative)
    with pytest.raises(ConfigurationError, match="blocks"):
        regmean_pp(
            state,
            models,
            module=base,
            inputs={t: torch.zeros(1, 4).double() for t in TASKS},
            blocks=["nowhere"],
        )


def test_a_network_that_is_one_layer_is_merged_on_its_inputs():
    base, models, inputs, statistics = problem(lambda: nn.Linear(4, 3).double())
    state = base.state_dict()
    for fold_bias, method in ((False, regmean), (True, gram)):
        found = regmean_pp(
            state,
            models,
            module=base,
            inputs=inputs,
            weights=WEIGHTS,
            fold_bias=fold_bias,
        )
        expected = method(
            state, models, statistics=statistics, weights=WEIGHTS, off_diagonal=0.9
        )
        for name, value in expected.items():
            close(found[name], value)
        assert not torch.allclose(
            found["weight"], average(state, models, weights=WEIGHTS)["weight"]
        )


def test_a_layer_is_solved_once_whichever_tensor_comes_first(monkeypatch):
    base, models, _, statistics = problem()
    expected = gram(base.state_dict(), models, statistics=statistics)
    names = ["0.bias", "2.weight", "0.weight", "2.bias"]
    count, solve = [0], regression.Least.solve

    def counted(*rest):
        count[0] += 1
        return solve(*rest)

    monkeypatch.setattr(regression.Least, "solve", counted)
    start = base.state_dict()
    found = gram({n: start[n] for n in names}, models, statistics=statistics)
    assert count[0] == 2
    for name in names:
        close(found[name], expected[name])
