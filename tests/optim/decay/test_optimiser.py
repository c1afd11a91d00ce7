"""SPD around other optimisers: exactness, paths, state, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam

from pyro_geo import citation
from pyro_geo._compat.torch import TorchDispatchMode
from pyro_geo.errors import (
    AnchorMismatchError,
    ConfigurationError,
    OpposedDecayWarning,
    SparseGradientError,
    UnsupportedOptimizerError,
)
from pyro_geo.optim import SPD
from pyro_geo.optim.decay._bundle import ForeachBundle
from pyro_geo.optim.decay._bundling import blank_record
from pyro_geo.testing.decay import (
    LateNorm,
    MomentumCondition,
    PublishedSPD,
    SharedAnchor,
    check_decay,
)

F64 = torch.float64
SHAPES = [(4, 3), (5,), ()]
BASES = {
    "Adam": (torch.optim.Adam, {"lr": 0.05}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.0}),
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.05}),
    "ClippedAdam": (ClippedAdam, {"lr": 0.05, "lrd": 0.99}),
}


def make(seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=F64).to(dtype))
        for s in SHAPES
    ]


def train(optimizer, params, num_steps=25, seed=1, sign=1.0):
    """Noisy quadratic: about half of the steps point against the displacement."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        for p in params:
            noise = 2 * torch.randn(p.shape, generator=generator, dtype=F64)
            p.grad = (sign * (p.detach() - 1 + noise)).to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first, second, atol=1e-12):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# -- against the publication, and the base --------------------------------------------


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("spd", [0.0, 0.5, 1.0, 2.0])
def test_it_is_the_published_update(spd, amsgrad):
    check_decay(spd=spd, amsgrad=amsgrad)


@pytest.mark.parametrize("twin", [SharedAnchor, MomentumCondition, LateNorm])
def test_a_twin_is_rejected(twin):
    with pytest.raises(AssertionError, match="differ"):
        check_decay(twin)


def test_whole_runs_agree_with_the_publication():
    ours, theirs = make(), make()
    zeros = [None] * len(theirs)
    one = SPD(ours, anchor=None, lr=0.05, allow_overshoot=True)
    other = PublishedSPD(theirs, zeros, lr=0.05)
    close(train(one, ours, 50), train(other, theirs, 50))
    assert sum(row["decay_rate"] for row in one.deviation().values()) > 0.1


@pytest.mark.parametrize("name", BASES)
def test_without_strength_it_is_the_base(name):
    base, options = BASES[name]
    ours, theirs = make(), make()
    one = SPD(ours, base, spd=0.0, **options)
    fused = {"fused": True} if one.param_groups[0].get("fused") else {}
    assert same(train(one, ours), train(base(theirs, **options, **fused), theirs))
    assert {row["undone"] for row in one.deviation().values()} == {0.0}
    assert all(r["path_length"] >= r["l2"] - 1e-12 for r in one.deviation().values())


@pytest.mark.parametrize("name", BASES)
def test_with_strength_it_is_not_the_base(name):
    base, options = BASES[name]
    ours, theirs = make(), make()
    one = SPD(ours, base, **options)
    assert not same(train(one, ours), train(base(theirs, **options), theirs))
    for row in one.deviation().values():
        assert row["path_length"] >= row["l2"] - 1e-12
        assert 0 < row["decay_rate"] <= row["conflict_rate"] < 1
        assert row["undone"] > 0


# -- the two paths --------------------------------------------------------------------


@pytest.fixture
def listed(monkeypatch):
    """Let every bundle go by operations on lists."""
    monkeypatch.setattr("pyro_geo.optim.decay._bundling.CompiledBundle", ForeachBundle)


CASES = [{}, {"spd": 3.0}, {"granularity": "group"}, {"condition_beta": 0.7}]
CASES += [{"anchor": None}, {"spd": 3.0, "allow_overshoot": True}, {"maximize": True}]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_both_paths_agree(options, dtype, request):
    runs = []
    for path in ("compiled", "listed"):
        if path == "listed":
            request.getfixturevalue("listed")
        params = make(dtype=dtype)
        optimizer = SPD(params, lr=0.05, **options)
        runs.append((train(optimizer, params), optimizer.deviation()))
    (first, one), (second, other) = runs
    close(first, second)
    for k in one:
        for name, value in one[k].items():
            assert value == pytest.approx(other[k][name], abs=1e-10, nan_ok=True), name


def test_tensors_that_do_not_lie_in_one_piece():
    straight, turned = make(), make()
    turned[0] = torch.nn.Parameter(straight[0].detach().clone().mT.contiguous().mT)
    assert not turned[0].is_contiguous()
    first, second = (train(SPD(p, lr=0.05), p) for p in (straight, turned))
    close(first, second)


@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_that_does_not_lie_in_one_piece(fused):
    params = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    grad = torch.randn(3, 4)
    for p, g in zip(params, (grad.mT, grad.mT.contiguous()), strict=True):
        optimizer = SPD([p], torch.optim.SGD, lr=5.0, anchor=None, fused=fused)
        p.grad = g
        optimizer.step()
    assert torch.equal(*params)


class Reads(TorchDispatchMode):
    """Count what the host reads of a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"granularity": "group"}], ids=str)
def test_lists_of_tensors_never_make_the_host_wait(options, listed):
    params = make()
    base = {"momentum": 0.9, "lr": 0.05, "foreach": True}
    optimizer = SPD(params, torch.optim.SGD, **base, **options)
    train(optimizer, params, 2)
    with Reads() as reads:
        train(optimizer, params, 3)
    assert reads.count == 0
    with reads:
        params[2].item()
    assert reads.count == 1


# -- exact properties -----------------------------------------------------------------


def test_no_anchor_is_an_anchor_of_zeros():
    runs = []
    for anchor in (None, [torch.zeros(s, dtype=F64) for s in SHAPES]):
        params = make()
        runs.append(train(SPD(params, lr=0.05, anchor=anchor), params))
    assert same(*runs)


def test_the_first_step_from_the_anchor_is_the_base_s():
    ours, theirs = make(), make()
    runs = [
        train(o, p, 1)
        for o, p in ((SPD(ours), ours), (torch.optim.Adam(theirs), theirs))
    ]
    close(*runs, atol=1e-15)


def test_zero_gradients_move_nothing():
    params = make()
    before = [p.detach().clone() for p in params]
    optimizer = SPD(params, anchor=None)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(before, [p.detach() for p in params])


def test_a_gradient_that_is_not_a_number_stays_in_its_tensor():
    ours, theirs = make(), make()
    one, other = SPD(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1, fused=True)
    for params, optimizer in ((ours, one), (theirs, other)):
        for p in params:
            p.grad = torch.ones_like(p)
        params[0].grad = torch.full_like(params[0], torch.nan)
        optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, equal_nan=True)


def test_climbing_is_descending_the_negative():
    runs = []
    for sign in (1.0, -1.0):
        params = make()
        optimizer = SPD(params, lr=0.05, maximize=sign < 0)
        runs.append(train(optimizer, params, sign=sign))
    close(*runs)


def test_two_groups_are_two_optimisers():
    joint, apart = make(), make()
    groups = [{"params": joint[:1], "spd": 0.5}, {"params": joint[1:], "spd": 2.0}]
    optimizers = [SPD(apart[:1], lr=0.05, spd=0.5), SPD(apart[1:], lr=0.05, spd=2.0)]

    class Both:
        def step(self):
            for optimizer in optimizers:
                optimizer.step()

    assert same(train(SPD(groups, lr=0.05), joint), train(Both(), apart))


def test_a_group_shares_one_norm():
    params = make()
    optimizer = SPD(params, torch.optim.SGD, lr=8.0, granularity="group", anchor=None)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in params]))
    whole = SPD([flat], torch.optim.SGD, lr=8.0, anchor=None)
    for p in params:
        p.grad = 0.9 * p.detach()
    flat.grad = 0.9 * flat.detach()
    optimizer.step()
    whole.step()
    joined = torch.cat([p.detach().flatten() for p in params])
    torch.testing.assert_close(joined, flat.detach())
    assert optimizer.deviation()[0]["decay_rate"] == 1


def test_a_closure_is_called_once_and_its_gradients_count():
    calls = []
    runs = []
    for closed in (True, False):
        params = make()
        optimizer = SPD(params, lr=0.3)

        def evaluate(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.stack([((p - 1) ** 2).sum() for p in params]).sum()
            loss.backward()
            calls.append(loss.item())
            return loss

        for _ in range(10):
            if closed:
                assert optimizer.step(evaluate).item() == calls[-1]
            else:
                evaluate()
                optimizer.step()
        runs.append([p.detach() for p in params])
    assert same(*runs)
    assert len(calls) == 20


# -- state ----------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_a_saved_run_goes_on_as_if_nothing_had_been(beta):
    whole, halves = make(), make()
    options = {"lr": 0.05, "condition_beta": beta}
    one, other = SPD(whole, **options), SPD(halves, **options)
    train(one, whole, 20)
    train(other, halves, 20)
    saved = io.BytesIO()
    torch.save(other.state_dict(), saved)
    saved.seek(0)
    resumed = SPD(halves, **options)  # anchored where it is now, until it is loaded
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert same(train(one, whole, 20, seed=5), train(resumed, halves, 20, seed=5))
    assert one.deviation() == resumed.deviation()


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_steps_alone(way):
    params = make()
    optimizer = SPD(params, lr=0.05)
    train(optimizer, params, 5)
    pair = (params, optimizer)
    own, other = (
        copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    )
    before = [p.detach().clone() for p in params]
    found = train(other, own, 5, seed=3)
    assert same(before, [p.detach() for p in params])
    assert same(found, train(optimizer, params, 5, seed=3))


def test_a_schedule_reaches_the_base():
    ours, theirs = make(), make()
    one, other = (
        SPD(ours, lr=0.1, spd=0.0),
        torch.optim.Adam(theirs, lr=0.1, fused=True),
    )
    runs = []
    for optimizer, params in ((one, ours), (other, theirs)):
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            runs.append(train(optimizer, params, 2))
            schedule.step()
    assert same(runs[2], runs[5])


def test_a_parameter_without_gradient_waits():
    params = make()
    optimizer = SPD(params, lr=0.05)
    train(optimizer, params[:2], 5)
    assert optimizer.deviation()[2]["steps"] == 0
    train(optimizer, params, 5)
    found = optimizer.deviation()
    assert [found[k]["steps"] for k in range(3)] == [10, 10, 5]
    assert all(row["path_length"] >= row["l2"] - 1e-12 for row in found.values())


def test_a_group_that_comes_later_has_its_own_anchor():
    params = make()
    optimizer = SPD(params[:1], lr=0.05)
    optimizer.add_param_group({"params": params[1:2], "anchor": None, "spd": 0.3})
    optimizer.add_param_group({"params": params[2:], "anchor": "free"})
    train(optimizer, params, 3)
    assert list(optimizer.anchors()) == [0, 1]
    assert optimizer.anchors()[1] is None
    assert [group["spd"] for group in optimizer.param_groups] == [1.0, 0.3, 1.0]
    assert optimizer.base.param_groups is optimizer.param_groups


def test_an_anchor_is_set_anew():
    params = make()
    optimizer = SPD(params, lr=0.05)
    train(optimizer, params, 5)
    optimizer.reset_anchor([1])
    found = optimizer.deviation()
    assert found[1]["l2"] == 0
    assert found[1]["steps"] == 0
    assert found[0]["l2"] > 0
    with pytest.raises(ConfigurationError, match="unknown parameter"):
        optimizer.reset_anchor(["weight"])


def test_nothing_is_counted_without_tracking():
    params = make()
    optimizer = SPD(params, lr=0.05, track=False)
    other = make()
    assert same(train(optimizer, params), train(SPD(other, lr=0.05), other))
    assert set(optimizer.deviation()[0]) == {"l2", "relative"}


def test_a_module_that_is_cast_keeps_its_anchors():
    net = torch.nn.Linear(3, 2)
    optimizer = SPD(net.parameters(), torch.optim.SGD, lr=0.1)
    train(optimizer, list(net.parameters()), 3)
    net.double()
    found = train(optimizer, list(net.parameters()), 3)
    assert all(x.dtype == F64 for x in found)
    assert all(x.isfinite().all() for x in found)


# -- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("spd", [-1.0, float("nan"), float("inf")])
def test_a_strength_out_of_range(spd):
    with pytest.raises(ConfigurationError, match="spd"):
        SPD(make(), spd=spd)


@pytest.mark.parametrize(
    "options", [{"granularity": "layer"}, {"condition_beta": 1.0}, {"anchor": "start"}]
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SPD(make(), **options)


@pytest.mark.parametrize("base", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_bases_that_cannot_be_wrapped(base):
    with pytest.raises(UnsupportedOptimizerError, match=base.__name__):
        SPD(make(), base)


def test_a_sparse_gradient_changes_nothing():
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = SPD(table.parameters(), torch.optim.SGD, lr=0.1)
    before = table.weight.detach().clone()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(SparseGradientError):
        optimizer.step()
    assert torch.equal(table.weight.detach(), before)


def test_a_state_without_anchors_is_refused():
    params = make()
    optimizer = SPD(params, lr=0.05)
    with pytest.raises(AnchorMismatchError, match="no anchors"):
        optimizer.load_state_dict(torch.optim.Adam(params).state_dict())
    saved = optimizer.state_dict()
    saved["spd_anchors"][0] = torch.zeros(2)
    with pytest.raises(AnchorMismatchError):
        optimizer.load_state_dict(saved)


def test_weight_decay_against_the_anchor_warns():
    with pytest.warns(OpposedDecayWarning, match="weight_decay"):
        SPD(make(), torch.optim.AdamW)
    SPD(make(), torch.optim.AdamW, anchor=None)
    SPD(make(), torch.optim.AdamW, anchor="free")


def test_a_group_over_two_types_has_no_norm():
    params = [torch.nn.Parameter(torch.ones(2, dtype=d)) for d in (F64, torch.float32)]
    optimizer = SPD(params, granularity="group")
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ConfigurationError, match="one type"):
        optimizer.step()


def test_a_blank_record_has_no_norm_yet():
    assert sorted(set(blank_record().tolist())) == [-1.0, 0.0]


def test_the_method_is_cited():
    assert "2411.01713" in citation(SPD)
