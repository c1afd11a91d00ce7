"""Merging methods that need no data, against their formulas written out in NumPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from pyro_geo.errors import (
    AveragedStatisticsWarning,
    ConfigurationError,
    LayoutMismatchError,
    NonFiniteParameterError,
)
from pyro_geo.summaries.merge import baselines
from pyro_geo.summaries.merge._reader import Reader
from pyro_geo.summaries.merge.baselines import (
    average,
    dare,
    iso_c,
    iso_cts,
    larv,
    task_arithmetic,
    ties,
    tsv_merge,
    wudi,
)
from pyro_geo.summaries.merge.baselines.sparse import _smallest_kept

SHAPES = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (4, 7), "b.scale": ()}
FREE = {
    "average": {},
    "task_arithmetic": {},
    "ties": {"density": 0.4},
    "dare": {"seed": 3, "drop": 0.5},
    "tsv_merge": {},
    "iso_c": {},
    "iso_cts": {"common_fraction": 0.4},
    "wudi": {"steps": 20},
    "larv": {"over": "task_arithmetic"},
}


def draw(seed, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


@pytest.fixture
def networks():
    return draw(0), {name: draw(k + 1) for k, name in enumerate("pqr")}


def steps(base, models, name="a.weight"):
    return [(state[name] - base[name]).numpy() for state in models.values()]


def close(found, expected, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=rtol, atol=rtol)


def test_average_weighted_by_hand():
    base = {"w": torch.zeros(2)}
    models = {
        "x": {"w": torch.tensor([1.0, 5.0])},
        "y": {"w": torch.tensor([5.0, 1.0])},
    }
    found = average(base, models, weights={"y": 1, "x": 3})
    assert found["w"].tolist() == [2.0, 4.0]


def test_task_arithmetic_with_one_over_k_is_the_average(networks):
    base, models = networks
    found, mean = task_arithmetic(base, models, scale=1 / 3), average(base, models)
    for name in base:
        close(found[name], mean[name])


def test_ties_by_its_three_steps(networks):
    base, models = networks
    found = ties(base, models, density=0.3, scale=0.7)
    flat = [
        np.concatenate([(s[n] - base[n]).numpy().ravel() for n in base])
        for s in models.values()
    ]
    keep = int(np.ceil(0.3 * flat[0].size))
    trimmed = [np.where(abs(t) >= np.sort(abs(t))[-keep], t, 0) for t in flat]
    sign = np.sign(sum(trimmed))
    agree = [np.where(np.sign(t) == sign, t, 0) for t in trimmed]
    count = sum((t != 0).astype(int) for t in agree)
    merged = sum(agree) / np.maximum(count, 1)
    ours = np.concatenate([(found[n] - base[n]).numpy().ravel() for n in base])
    close(ours, 0.7 * merged)


def test_ties_drops_what_cancels():
    base = {"w": torch.zeros(2)}
    models = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([-1.0, 1.0])}]
    assert ties(base, models, density=1.0)["w"].tolist() == [0.0, 1.5]


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("rounded", [False, True])
def test_smallest_kept_is_the_order_statistic(density, rounded):
    # with many equal magnitudes and zeros in the second case
    base, models = draw(0), {"p": draw(1), "q": draw(2)}
    if rounded:
        base = {k: v.round() for k, v in base.items()}
        models = {t: {k: v.round() for k, v in s.items()} for t, s in models.items()}
    found = _smallest_kept(Reader(base, models), density)
    for value, state in zip(found, models.values(), strict=True):
        flat = torch.cat([(state[n] - base[n]).abs().flatten() for n in base])
        keep = int(np.ceil(density * len(flat)))
        assert value == flat.sort(descending=True).values[keep - 1]


def test_dare_is_unbiased_and_rescaled():
    base, model = {"w": torch.zeros(2000)}, {"w": torch.ones(2000)}
    found = dare(base, [model], seed=0, drop=0.75, scale=1.0)["w"]
    assert set(found.tolist()) == {0.0, 4.0}
    # binomial: 5 standard deviations, an error rate of 6e-7
    kept = int((found > 0).sum())
    assert abs(kept - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_dare_depends_on_seed_and_task_alone():
    base, model = draw(0), draw(1)
    state = torch.get_rng_state()
    both = dare(base, {"p": model, "q": model}, seed=1)
    again = dare(base, {"q": model, "p": model}, seed=1)
    other = dare(base, {"p": model, "q": model}, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name in base:
        close(both[name], again[name], 1e-14)
    assert not torch.equal(both["a.weight"], other["a.weight"])
    alone = dare(base, {"p": model}, seed=1)["a.weight"]
    assert not torch.equal(alone, dare(base, {"q": model}, seed=1)["a.weight"])


def test_tsv_merge_by_polar_factors(networks):
    base, models = networks
    found = tsv_merge(base, models, scale=0.8)
    parts = [np.linalg.svd(t, full_matrices=False) for t in steps(base, models)]
    p = 5 // 3
    u = np.hstack([u[:, :p] for u, _, _ in parts])
    s = np.hstack([s[:p] for _, s, _ in parts])
    v = np.hstack([vt[:p].T for _, _, vt in parts])
    merged = scipy.linalg.polar(u)[0] @ np.diag(s) @ scipy.linalg.polar(v)[0].T
    close(found["a.weight"] - base["a.weight"], 0.8 * merged)
    mean = sum(steps(base, models, "a.bias")) / 3
    close(found["a.bias"] - base["a.bias"], 0.8 * mean)


def test_tsv_merge_adds_what_is_orthogonal():
    q = torch.linalg.qr(draw(3, shapes={"q": (6, 6)})["q"])[0]
    base = {"w": torch.zeros(6, 6, dtype=torch.float64)}
    tasks = [q[:, 2 * k : 2 * k + 2] @ q[:, 2 * k : 2 * k + 2].T for k in range(3)]
    found = tsv_merge(base, [{"w": (k + 1) * t} for k, t in enumerate(tasks)])["w"]
    close(found, sum((k + 1) * t for k, t in enumerate(tasks)))


def test_tsv_merge_of_tasks_that_did_not_move(networks):
    base, models = networks
    with_idle = {**models, "idle": base, "idler": base}
    found = tsv_merge(base, with_idle, rank_fraction=1.0)
    # the idle ones only lower the ranks of the others
    expected = tsv_merge(base, models, rank_fraction=3 / 5)
    close(found["a.weight"], expected["a.weight"])


def test_iso_c_by_its_formula(networks):
    base, models = networks
    u, s, vt = np.linalg.svd(sum(steps(base, models)), full_matrices=False)
    found = iso_c(base, models, scale=1.3)["a.weight"] - base["a.weight"]
    close(found, 1.3 * s.mean() * u @ vt)


def test_iso_c_stays_in_the_range_of_low_rank_sums():
    base = {"w": torch.zeros(4, 4, dtype=torch.float64)}
    model = {"w": torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]).double())}
    close(iso_c(base, [model])["w"], np.diag([1.0, 1.0, 0.0, 0.0]))


def test_iso_cts_by_its_steps(networks):
    base, models = networks
    taus = steps(base, models)
    # 5 ranks, 3 tasks: round((5 - 2) / 3) = 1 for each, 2 common ones
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    us, ss, vs = [], [], []
    for tau in taus:
        rest = tau - u[:, :2] @ u[:, :2].T @ tau
        a, b, c = np.linalg.svd(rest, full_matrices=False)
        us, ss, vs = [*us, a[:, :1]], [*ss, b[:1]], [*vs, c[:1]]
    left = scipy.linalg.polar(np.hstack([*us, u[:, :2]]))[0]
    right = scipy.linalg.polar(np.vstack([*vs, vt[:2]]))[0]
    merged = np.concatenate([*ss, s[:2]]).mean() * left @ right
    found = iso_cts(base, models, common_fraction=0.4)["a.weight"]
    close(found - base["a.weight"], merged)


def test_iso_cts_with_all_common_is_iso_c(networks):
    found, plain = iso_cts(*networks, common_fraction=1.0), iso_c(*networks)
    close(found["a.weight"], plain["a.weight"])


def loss_of(tau, taus):
    terms = [((tau - t) @ t.mT).square().sum() / t.square().sum() for t in taus]
    return torch.stack(terms).sum()


def test_wudi_takes_the_steps_of_adam(networks):
    base, models = networks
    taus = [torch.as_tensor(t) for t in steps(base, models)]
    tau = torch.stack(taus).sum(0).requires_grad_()
    adam = torch.optim.Adam([tau], lr=0.01)
    for _ in range(30):
        adam.zero_grad()
        loss_of(tau, taus).backward()
        adam.step()
    found = wudi(base, models, steps=30, step_size=0.01)["a.weight"]
    close(found - base["a.weight"], tau.detach(), 1e-8)


def test_wudi_exact_has_no_slope(networks):
    base, models = networks
    taus = [torch.as_tensor(t) for t in steps(base, models)]
    found = wudi(base, models, solver="exact")["a.weight"] - base["a.weight"]
    tau = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(tau, taus), tau)
    assert slope.abs().max() < 1e-10
    assert loss_of(found, taus) < loss_of(torch.stack(taus).sum(0), taus)


def test_larv_by_its_formulas():
    shapes = {
        "0.weight": (3, 4),
        "0.bias": (3,),
        "1.weight": (4, 3),
        "2.weight": (2, 4),
    }
    base, model = draw(0, shapes=shapes), draw(1, shapes=shapes)
    scores, conflicts, contrasts = [], [], []
    for k in range(3):
        a, d = base[f"{k}.weight"].numpy(), (model[f"{k}.weight"]).numpy()
        d = d - a
        ranks = []
        for x in (a, d):
            p = np.linalg.svd(x, compute_uv=False) ** 2
            p = p / p.sum()
            ranks.append(np.exp(-(p * np.log(p)).sum()))
        contrasts.append(ranks[0] / ranks[1])
        size = np.linalg.norm(a) * np.linalg.norm(d)
        left, right = a.T @ d - d.T @ a, a @ d.T - d @ a.T
        conflicts.append((np.linalg.norm(left) + np.linalg.norm(right)) / 2 / size)
    z = (np.array(conflicts) - np.mean(conflicts)) / np.std(conflicts)
    depth = np.array([1, 2, 3]) / 3
    scores = np.array(contrasts) * depth**0.5 / (1 + np.log1p(np.exp(z)))
    scales = 1 + 0.5 * np.tanh(3 * (scores - 1))
    found = larv(base, [model], over="average")
    tiered = larv(base, [model], over="average", tiers=[0.0, 1.0, 2.0])
    for k in range(3):
        name = f"{k}.weight"
        close(found[name], base[name] + scales[k] * (model[name] - base[name]))
        tier = float(scores.argsort().argsort()[k])
        close(tiered[name], base[name] + tier * (model[name] - base[name]))
    close(
        found["0.bias"], base["0.bias"] + scales[0] * (model["0.bias"] - base["0.bias"])
    )


def test_larv_with_one_scale_is_the_method_itself(networks):
    base, models = networks
    for how, options in (("ties", {"density": 0.3}), ("tsv_merge", {})):
        found = larv(base, models, over=how, tiers=[1.0], options=options)
        plain = getattr(baselines, how)(base, models, **options)
        for name in base:
            close(found[name], plain[name])


def test_larv_scales_before_ties_trims():
    # the scale decides which difference is the largest
    base = {"0.weight": torch.eye(2), "1.weight": torch.eye(2)}
    model = {"0.weight": 4 * torch.eye(2), "1.weight": 3 * torch.eye(2)}
    found = larv(
        base, [model], over="ties", tiers=[0.5, 1.0], options={"density": 0.25}
    )
    assert torch.equal(found["0.weight"], base["0.weight"])
    assert torch.equal(found["1.weight"], model["1.weight"])


@pytest.mark.parametrize("name", FREE)
def test_order_of_tasks_does_not_matter(name, networks):
    base, models = networks
    merge = getattr(baselines, name)
    found = merge(base, models, **FREE[name])
    turned = merge(base, dict(reversed(models.items())), **FREE[name])
    for key in base:
        close(found[key], turned[key], 1e-9)


ONE = {
    "average": {},
    "task_arithmetic": {"scale": 1.0},
    "ties": {"density": 1.0},
    "dare": {"seed": 0, "drop": 0.0, "scale": 1.0},
    "tsv_merge": {},
    "wudi": {},
}


@pytest.mark.parametrize("name", ONE)
def test_one_task_is_that_model(name, networks):
    base, models = networks
    found = getattr(baselines, name)(base, {"p": models["p"]}, **ONE[name])
    for key in base:
        close(found[key], models["p"][key])


@pytest.mark.parametrize("name", ["average", "ties", "tsv_merge", "wudi"])
def test_equal_models_are_that_model(name):
    base = draw(0)
    # of rank one, so that no method cuts off a part
    model = {
        key: value + (torch.ones_like(value) if value.ndim == 2 else 1.0)
        for key, value in base.items()
    }
    options = {"ties": {"density": 1.0}, "wudi": {"solver": "exact"}}.get(name, {})
    found = getattr(baselines, name)(base, [model] * 4, **options)
    for key in base:
        close(found[key], model[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", FREE)
def test_types_come_back_and_inputs_stay(name, dtype):
    base, models = draw(0, dtype), [draw(1, dtype), draw(2, dtype)]
    before = [{k: v.clone() for k, v in s.items()} for s in (base, *models)]
    found = getattr(baselines, name)(base, models, **FREE[name])
    assert {k: (v.dtype, v.shape) for k, v in found.items()} == {
        k: (dtype, v.shape) for k, v in base.items()
    }
    assert list(found) == list(base)
    for old, state in zip(before, (base, *models), strict=True):
        assert all(torch.equal(old[k], state[k]) for k in state)
    assert all(found[k].data_ptr() != base[k].data_ptr() for k in base)


def test_what_is_not_merged():
    base = {"w": torch.zeros(2), "head": torch.zeros(3), "n": torch.tensor(7)}
    base["norm.running_mean"] = torch.zeros(2)
    model = {"w": torch.ones(2), "n": torch.tensor(9)}
    model["norm.running_mean"] = torch.full((2,), 4.0)
    with pytest.warns(AveragedStatisticsWarning):
        found = task_arithmetic(base, [model], shared=lambda name: name != "head")
    assert found["n"] == 7
    assert found["head"].tolist() == [0.0] * 3
    assert found["norm.running_mean"].tolist() == [4.0, 4.0]
    assert found["w"].tolist() == pytest.approx([0.3, 0.3])


def test_empty_and_flat_tensors():
    base = {"none": torch.zeros(0, 3), "kernel": torch.zeros(2, 2, 1, 1)}
    model = {"none": torch.zeros(0, 3), "kernel": torch.ones(2, 2, 1, 1)}
    for name, options in FREE.items():
        found = getattr(baselines, name)(base, [model], **options)
        assert found["none"].shape == (0, 3)


@pytest.mark.parametrize("name", FREE)
def test_a_bad_number_names_task_and_tensor(name, networks):
    base, models = networks
    models["q"]["a.bias"][3] = torch.nan
    with pytest.raises(NonFiniteParameterError, match=r"'q'.*'a\.bias'"):
        getattr(baselines, name)(base, models, **FREE[name])


def test_another_layout_names_the_tensor(networks):
    base, models = networks
    models["q"]["a.bias"] = torch.zeros(6)
    with pytest.raises(LayoutMismatchError, match=r"'q'.*'a\.bias'.*\(6,\).*\(7,\)"):
        average(base, models)
    with pytest.raises(LayoutMismatchError, match=r"'p'.*'a\.bias'"):
        average(base, {"p": {k: v for k, v in base.items() if k != "a.bias"}})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("average", {"weights": [1.0, -1.0, 1.0]}),
        ("average", {"dtype": torch.int32}),
        ("task_arithmetic", {"scale": float("nan")}),
        ("ties", {"density": 0.0}),
        ("ties", {"density": 1.5}),
        ("dare", {"seed": 0, "drop": 1.0}),
        ("dare", {"seed": -1}),
        ("tsv_merge", {"rank_fraction": 0.0}),
        ("iso_cts", {"common_fraction": 1.1}),
        ("wudi", {"solver": "newton"}),
        ("wudi", {"step_size": 0.0}),
        ("larv", {"over": "fisher"}),
        ("larv", {"over": "ties", "options": {"densty": 0.1}}),
        ("larv", {"tiers": []}),
    ],
)
def test_bad_options_are_named(name, options, networks):
    with pytest.raises(ConfigurationError):
        getattr(baselines, name)(*networks, **options)


def test_no_models():
    with pytest.raises(ConfigurationError, match="models"):
        average(draw(0), {})


def test_matrices_leaves_others_to_the_average(networks):
    base, models = networks
    found = iso_c(base, models, matrices=lambda name: name.startswith("b"))
    close(found["a.weight"], average(base, models)["a.weight"])
    close(found["b.weight"], iso_c(base, models)["b.weight"])


def test_single_precision_agrees(networks):
    base, models = networks
    for name, options in FREE.items():
        merge = getattr(baselines, name)
        found = merge(base, models, dtype=torch.float32, **options)
        exact = merge(base, models, **options)
        for key in base:
            close(found[key], exact[key], 2e-4)


@pytest.mark.parametrize("solver", ["adam", "exact"])
def test_wudi_leaves_a_matrix_without_columns_as_it_is(solver):
    base = {"w": torch.zeros(3, 0), "v": torch.zeros(0, 3), "u": torch.zeros(2, 2)}
    models = [{**base, "u": torch.eye(2)}, {**base, "u": torch.ones(2, 2)}]
    found = wudi(base, models, solver=solver)
    assert {name: x.shape for name, x in found.items()} == {
        name: x.shape for name, x in base.items()
    }
    assert not torch.equal(found["u"], base["u"])
