"""Treatments change a memory as their formulas say, with all that hangs on it."""

import copy
from typing import Any

import pytest
import pytorch_optimizer
import torch

from pyro_geo.errors import (
    ConfigurationError,
    MissingGradientLogError,
    NonFiniteStateError,
    NotPositiveDefiniteError,
    ShapeError,
)
from pyro_geo.geometry.spectra import eigenvalues
from pyro_geo.optim import EigenONS
from pyro_geo.unlearning import memory_of
from pyro_geo.unlearning._finding import buffers_of
from pyro_geo.unlearning.data_treatments import Downdate, ProjectForget, Refresh
from pyro_geo.unlearning.treatments import (
    Decay,
    Perturb,
    Reset,
    Shrink,
    Truncate,
    Untreated,
    policies_of,
)
from tests.cases import numbers

KINDS: dict[str, Any] = {
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.9), "lr": 0.01}),
    "AMSGrad": (torch.optim.Adam, {"amsgrad": True, "lr": 0.01}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.5, "lr": 0.01}),
    "Adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.5}),
    "Shampoo": (
        pytorch_optimizer.Shampoo,
        {"matrix_eps": 1e-3, "preconditioning_compute_steps": 1, "lr": 0.01},
    ),
    "SOAP": (
        pytorch_optimizer.SOAP,
        {"precondition_1d": True, "precondition_frequency": 1, "lr": 0.01},
    ),
    "EigenONS": (EigenONS, {"rank": 14, "log": "all"}),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def feed(optimizer, steps: range) -> torch.Tensor:
    """Give gradients that do not depend on where the parameters are."""
    params = optimizer.param_groups[0]["params"]
    rows = []
    for i in steps:
        for k, p in enumerate(params):
            p.grad = numbers(*p.shape, seed=7 * i + k)
        rows.append(torch.cat([p.grad.flatten() for p in params]))
        optimizer.step()
    return torch.stack(rows)


def trained(kind: str, steps: int = 6):
    make, options = KINDS[kind]
    shapes = ((3, 4), (2,))
    params = [torch.nn.Parameter(torch.zeros(*s).double()) for s in shapes]
    optimizer = make(params, **options)
    feed(optimizer, range(steps))
    return optimizer


def above(optimizer) -> torch.Tensor:
    """The memory without what the optimiser started with."""
    dense = memory_of(optimizer).dense()
    own = isinstance(optimizer, EigenONS)
    return dense - torch.eye(len(dense)).double() if own else dense


def buffers(optimizer) -> dict[str, torch.Tensor]:
    found = {}
    for i, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            parts = value if isinstance(value, list) else [value]
            for j, part in enumerate(parts):
                if torch.is_tensor(part):
                    found[f"{i} {key} {j}"] = part.clone()
    return found


@EVERY
def test_shrinking_by_nothing_changes_nothing(kind):
    optimizer = trained(kind)
    before, memory = buffers(optimizer), memory_of(optimizer).dense()
    Shrink(0.0).start(optimizer)
    torch.testing.assert_close(memory_of(optimizer).dense(), memory)
    for name, buffer in buffers(optimizer).items():
        if " Q " in name:  # a basis may turn, but what it spans stays
            continue
        if "exp_avg_sq" in name and kind == "SOAP":
            assert buffer.sum() == pytest.approx(before[name].sum().item())
            continue
        torch.testing.assert_close(buffer, before[name])


@pytest.mark.parametrize("kind", ["Adam", "RMSprop", "EigenONS", "SOAP"])
def test_k_decays_leave_a_known_share(kind):
    optimizer = trained(kind)
    before = above(optimizer)
    decay = Decay(0.1, every=2)
    decay.start(optimizer)
    rows = [decay.after_step(optimizer, t) for t in range(1, 7)]
    assert [row is None for row in rows] == [True, False] * 3
    torch.testing.assert_close(above(optimizer), 0.9**3 * before)


def test_floors_are_left_alone():
    adagrad = trained("Adagrad")
    before = memory_of(adagrad).dense().diagonal()
    Shrink(0.4).start(adagrad)
    found = memory_of(adagrad).dense().diagonal()
    torch.testing.assert_close(found - 0.5, 0.6 * (before - 0.5))
    shampoo = trained("Shampoo")
    param = shampoo.param_groups[0]["params"][0]
    eye = 1e-3 * torch.eye(3).double()
    before = shampoo.state[param]["pre_cond_0"] - eye
    Shrink(0.4).start(shampoo)
    torch.testing.assert_close(shampoo.state[param]["pre_cond_0"] - eye, 0.6 * before)


@EVERY
def test_a_reset_optimiser_goes_on_as_a_new_one(kind):
    old = trained(kind)
    Reset().start(old)
    make, options = KINDS[kind]
    params = old.param_groups[0]["params"]
    new_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    new = make(new_params, **options)
    torch.testing.assert_close(memory_of(old).dense(), memory_of(new).dense())
    for optimizer in (old, new):
        feed(optimizer, range(20, 24))
    for one, two in zip(params, new_params, strict=True):
        assert torch.equal(one, two)


def test_the_roots_of_shampoo_follow_its_factors():
    for treatment in (Shrink(0.5), Truncate(1), Perturb(0.3), Shrink(0.5, "top")):
        optimizer = trained("Shampoo")
        treatment.start(optimizer)
        for param, state in optimizer.state.items():
            for axis in range(param.ndim):
                root = state[f"inv_pre_cond_{axis}"]
                power = torch.linalg.matrix_power(root, 2 * param.ndim)
                eye = torch.eye(len(root)).double()
                found = power @ state[f"pre_cond_{axis}"]
                torch.testing.assert_close(found, eye, rtol=0, atol=1e-6)


def test_the_basis_of_soap_follows_its_factors():
    for treatment in (Shrink(0.5), Perturb(0.3), Shrink(0.5, "top", 0.4)):
        optimizer = trained("SOAP")
        treatment.start(optimizer)
        for state in optimizer.state.values():
            for factor, basis in zip(state["GG"], state["Q"], strict=True):
                inside = basis.mT @ factor @ basis
                off = inside - inside.diagonal().diag()
                assert float(off.abs().max()) < 1e-8 * float(inside.abs().max())
            assert bool((state["exp_avg_sq"] >= 0).all())


def test_second_moments_of_soap_shrink_with_the_memory():
    optimizer = trained("SOAP")
    state = next(iter(optimizer.state.values()))
    before, momentum = state["exp_avg_sq"].sum().item(), state["exp_avg"].clone()
    Shrink(0.3).start(optimizer)
    assert state["exp_avg_sq"].sum().item() == pytest.approx(0.7 * before)
    torch.testing.assert_close(state["exp_avg"], 0.7 * momentum)


@EVERY
@pytest.mark.parametrize(
    "treatment", [Shrink(0.7, "tail"), Truncate(1), Perturb(0.5, seed=3)]
)
def test_memories_stay_definite(kind, treatment):
    optimizer = trained(kind)
    treatment.start(optimizer)
    values = eigenvalues(memory_of(optimizer))
    assert bool((values >= 0).all())
    feed(optimizer, range(30, 32))
    assert all(bool(p.isfinite().all()) for p in optimizer.param_groups[0]["params"])


def test_top_and_tail_and_rank_are_of_eigenvalues():
    def values(treatment):
        optimizer = trained("EigenONS")
        treatment.start(optimizer)
        return (eigenvalues(memory_of(optimizer)) - 1).flip(0)[:6]

    full = values(Untreated())
    factor = torch.tensor([0.5, 0.5, 1, 1, 1, 1]).double()
    top = values(Shrink(0.5, "top", fraction=2 / 6))
    torch.testing.assert_close(top, (full * factor).sort(descending=True).values)
    tail = values(Shrink(0.5, "tail", fraction=2 / 6))
    torch.testing.assert_close(tail, full * (1.5 - factor))
    kept = values(Truncate(2))
    torch.testing.assert_close(kept, full * torch.tensor([1, 1, 0, 0, 0, 0]))


def test_treatments_commute_with_rotations():
    turn = torch.linalg.qr(numbers(14, 14, seed=5)).Q
    for treatment in (Shrink(0.3, "top", 0.4), Truncate(2)):
        memories = []
        for rotation in (torch.eye(14).double(), turn):
            param = torch.nn.Parameter(torch.zeros(14).double())
            optimizer = EigenONS([param], rank=14)
            for i in range(5):
                param.grad = rotation @ numbers(14, seed=i)
                optimizer.step()
            treatment.start(optimizer)
            memories.append(memory_of(optimizer).dense())
        torch.testing.assert_close(turn @ memories[0] @ turn.mT, memories[1])


def test_noise_of_size_zero_is_none_and_its_seed_is_its_own():
    one, two, three = (trained("Shampoo") for _ in range(3))
    before = memory_of(one).dense()
    Perturb(0.0).start(one)
    torch.testing.assert_close(memory_of(one).dense(), before)
    state = torch.random.get_rng_state()
    Perturb(0.5, seed=1).start(two)
    Perturb(0.5, seed=1).start(three)
    assert torch.equal(memory_of(two).dense(), memory_of(three).dense())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.allclose(memory_of(two).dense(), before, rtol=0.1)


# -- with gradients -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Adam", "RMSprop", "Adagrad", "Shampoo", "EigenONS"])
def test_downdating_leaves_what_had_never_seen_the_data(kind):
    make, options = KINDS[kind]

    def build(zeroed):
        param = torch.nn.Parameter(torch.zeros(3, 4).double())
        optimizer = make([param], **options)
        for i in range(6):
            param.grad = numbers(3, 4, seed=i) * (0.0 if i in zeroed else 1.0)
            optimizer.step()
        return optimizer

    optimizer, never = build(()), build((1, 3))
    rows = torch.stack([numbers(3, 4, seed=i).flatten() for i in (1, 3)])
    treatment = Downdate(gradients=rows, ages=(4, 2))
    if kind == "EigenONS":
        treatment = Downdate(tags=(2, 4))
    row = treatment.start(optimizer)
    torch.testing.assert_close(memory_of(optimizer).dense(), memory_of(never).dense())
    assert row.metrics["clipped"] < 1e-9


@pytest.mark.parametrize(
    "treatment",
    [
        Shrink(0.5),
        Decay(0.5),
        Truncate(3),
        Perturb(0.2),
        Refresh(numbers(4, 14, seed=9)),
        ProjectForget(numbers(1, 14, seed=8)),
        Downdate(gradients=numbers(1, 14, seed=7), allow_clip=True),
    ],
    ids=lambda treatment: type(treatment).__name__,
)
def test_what_was_written_down_is_not_taken_out_of_a_treated_memory(treatment):
    optimizer = trained("EigenONS")
    treatment.start(optimizer)
    treatment.after_step(optimizer, 1)
    before = memory_of(optimizer).dense()
    with pytest.raises(MissingGradientLogError, match="treatment"):
        Downdate(tags=[2]).start(optimizer)
    assert torch.equal(memory_of(optimizer).dense(), before)
    # later steps are written down again
    optimizer.rank = 20
    feed(optimizer, range(60, 61))
    Downdate(tags=[7]).start(optimizer)
    torch.testing.assert_close(memory_of(optimizer).dense(), before)


def test_several_memories_are_downdated_together_or_not_at_all():
    makers = [EigenONS([torch.nn.Parameter(torch.zeros(3))], log="all") for _ in "ab"]
    for optimizer, tags in zip(makers, (["a", "b"], ["b"]), strict=True):
        for tag in tags:
            optimizer.param_groups[0]["params"][0].grad = numbers(3).float()
            optimizer.step(tag=tag)
    buffers = [one for optimizer in makers for one in buffers_of(optimizer)]
    before = [optimizer.matrix().dense() for optimizer in makers]
    with pytest.raises(MissingGradientLogError):
        Downdate(tags=["a"]).apply(buffers)
    for optimizer, memory in zip(makers, before, strict=True):
        assert torch.equal(optimizer.matrix().dense(), memory)
    Downdate(tags=["b", "b"]).apply(buffers)
    assert list(makers[0].entries) == ["a"]
    torch.testing.assert_close(makers[1].matrix().dense(), torch.eye(3).double())


@pytest.mark.parametrize("kind", ["Adam", "Adagrad", "Shampoo", "SOAP", "EigenONS"])
def test_downdating_data_that_were_never_added_is_refused(kind):
    optimizer = trained(kind)
    before = memory_of(optimizer).dense()
    strange = 30 * numbers(1, 14, seed=99)
    with pytest.raises(NotPositiveDefiniteError, match="more is taken out"):
        Downdate(gradients=strange, ages=[1]).start(optimizer)
    assert torch.equal(memory_of(optimizer).dense(), before)
    row = Downdate(gradients=strange, ages=[1], allow_clip=True).start(optimizer)
    assert row.metrics["clipped"] > 0


def test_downdating_needs_a_record():
    with pytest.raises(MissingGradientLogError, match="Shampoo"):
        Downdate().start(trained("Shampoo"))
    with pytest.raises(MissingGradientLogError, match="tags"):
        Downdate(tags=["nobody"]).start(trained("EigenONS"))
    rows = numbers(2, 14)
    with pytest.raises(ConfigurationError, match="ages"):
        Downdate(gradients=rows).start(trained("Adam"))
    with pytest.raises(ShapeError):
        Downdate(gradients=rows[:, :5]).start(trained("Adam"))
    with pytest.raises(ShapeError):
        Downdate(gradients=rows, ages=[1]).start(trained("Adam"))


@pytest.mark.parametrize("kind", ["Adagrad", "Shampoo", "EigenONS"])
def test_refreshed_sums_are_those_of_a_new_optimiser(kind):
    optimizer = trained(kind)
    make, options = KINDS[kind]
    params = [
        torch.nn.Parameter(torch.zeros_like(p))
        for p in optimizer.param_groups[0]["params"]
    ]
    new = make(params, **options)
    rows = feed(new, range(50, 54))
    Refresh(rows).start(optimizer)
    torch.testing.assert_close(memory_of(optimizer).dense(), memory_of(new).dense())


def test_refreshed_averages_are_means():
    rows = numbers(5, 14, seed=3)
    optimizer = trained("Adam")
    Refresh(rows).start(optimizer)
    found = memory_of(optimizer).dense().diagonal()
    torch.testing.assert_close(found, (1 - 0.9**6) * rows.square().mean(0))
    soap = trained("SOAP")
    Refresh(rows).start(soap)
    state = next(iter(soap.state.values()))
    g = rows[:, :12].reshape(5, 3, 4)
    expected = torch.einsum("nij,nkj->ik", g, g) / 5
    share = 1 - 0.95**6
    torch.testing.assert_close(state["GG"][0], share * expected)
    left, right = state["Q"]
    turned = torch.einsum("ia,nij,jb->nab", left, g, right)
    expected = (1 - 0.95**5) * turned.square().mean(0)
    torch.testing.assert_close(state["exp_avg_sq"], expected)


def test_projected_memories_hold_nothing_of_the_directions():
    rows = numbers(2, 14, seed=4)
    optimizer = trained("EigenONS")
    before = above(optimizer)
    ProjectForget(rows).start(optimizer)
    q = torch.linalg.qr(rows.mT).Q
    clean = torch.eye(14).double() - q @ q.mT
    torch.testing.assert_close(above(optimizer), clean @ before @ clean)
    adam = trained("Adam")
    before = memory_of(adam).parts["0"].dense()
    ProjectForget(rows).start(adam)
    q = torch.linalg.qr(rows[:, :12].mT).Q
    clean = torch.eye(12).double() - q @ q.mT
    expected = (clean @ before @ clean).diagonal()
    found = memory_of(adam).parts["0"].dense().diagonal()
    torch.testing.assert_close(found, expected)


def test_a_factor_loses_its_leading_direction():
    optimizer = trained("Shampoo")
    param = optimizer.param_groups[0]["params"][0]
    one = torch.outer(numbers(3, seed=1), numbers(4, seed=2)).flatten()
    rows = torch.cat([one, torch.zeros(2).double()])[None]
    ProjectForget(rows, rank=1).start(optimizer)
    axis = torch.nn.functional.normalize(numbers(3, seed=1), dim=0)
    inside = axis @ optimizer.state[param]["pre_cond_0"] @ axis
    assert float(inside) == pytest.approx(1e-3)


# -- records --------------------------------------------------------------------------


def test_treatments_are_known_to_copies_and_saved_states():
    optimizer = trained("Adam")
    assert policies_of(optimizer) == ()
    Untreated().start(optimizer)
    Decay(0.1).start(optimizer)
    Downdate(gradients=torch.zeros(1, 14), ages=[0]).start(optimizer)
    expected = ("Decay(rho=0.1, which='all', fraction=0.1, every=1)", "Downdate()")
    assert policies_of(optimizer) == expected
    assert policies_of(copy.deepcopy(optimizer)) == expected
    other = trained("Adam")
    other.load_state_dict(optimizer.state_dict())
    assert policies_of(other) == expected
    matched = Downdate(tags=[1]).matched()
    assert matched.policy == "Downdate()"
    before = memory_of(other).dense()
    matched.start(other)
    assert torch.equal(memory_of(other).dense(), before)


@EVERY
def test_rows_describe_the_memory(kind):
    row = Shrink(0.5).start(trained(kind))
    assert row.step == 0
    assert set(row.metrics) == {"trace", "effective_rank", "logdet", "clipped"}
    assert all(torch.tensor(list(row.metrics.values())).isfinite())


def test_a_broken_state_is_found_before_anything_is_changed():
    optimizer = trained("Adam")
    params = optimizer.param_groups[0]["params"]
    optimizer.state[params[1]]["exp_avg"][0] = float("nan")
    before = optimizer.state[params[0]]["exp_avg_sq"].clone()
    with pytest.raises(NonFiniteStateError, match="exp_avg of 1"):
        Shrink(0.5).start(optimizer)
    assert torch.equal(optimizer.state[params[0]]["exp_avg_sq"], before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shrink(1.5),
        lambda: Shrink(0.5, "some"),  # type: ignore[arg-type]
        lambda: Shrink(0.5, "top", 0.0),
        lambda: Decay(0.5, every=0),
        lambda: Truncate(-1),
        lambda: Perturb(-0.1),
    ],
)
def test_mistakes_are_named(make):
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_stays_single(kind):
    make, options = KINDS[kind]
    param = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = make([param], **options)
    for i in range(4):
        param.grad = numbers(3, 4, seed=i).float()
        optimizer.step()
    types = {name: buffer.dtype for name, buffer in buffers(optimizer).items()}
    for treatment in (Shrink(0.5), Truncate(2), Perturb(0.1), Refresh(numbers(3, 12))):
        treatment.start(optimizer)
    assert {name: b.dtype for name, b in buffers(optimizer).items()} == types
    param.grad = numbers(3, 4, seed=9).float()
    optimizer.step()
    assert bool(param.isfinite().all())
