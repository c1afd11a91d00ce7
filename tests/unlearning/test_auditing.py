"""Audits: zeros for the same state, bands of seeds, and twins that are found out."""

import copy
import dataclasses
from typing import Any

import pytest
import pytorch_optimizer
import torch

from pyro_geo.errors import (
    ConfigurationError,
    NotPositiveDefiniteError,
    ReferenceMismatchError,
)
from pyro_geo.geometry.distances import airm
from pyro_geo.io.arviz import get_group
from pyro_geo.optim import EigenONS
from pyro_geo.testing.unlearning import (
    clusters,
    downdate_by_clamping,
    network_probes,
    reset_cache_alone,
    reset_factors_alone,
    train,
    trained_network,
)
from pyro_geo.unlearning import (
    Decay,
    Downdate,
    Probes,
    Reset,
    Shrink,
    State,
    Trajectory,
    Untreated,
    audit,
    memory_of,
)
from pyro_geo.unlearning.trajectories import trajectories_to_arviz

DATA = clusters(30)
GONE = DATA[1] == 2
FIRST, LATER = torch.arange(60), torch.arange(60, 90)
FLOOR = 1e-3


def shampoo(params, steps=1):
    options = {"lr": 0.05, "matrix_eps": FLOOR, "preconditioning_compute_steps": steps}
    return pytorch_optimizer.Shampoo(params, **options)


def without(rows):
    return rows[~GONE[rows]]


def learner(
    make, rows, treatment=None, seed=0, *, twin=None, later=None
) -> tuple[torch.nn.Module, State]:
    """Train, treat, and train on what stays."""
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    net, optimizer = trained_network(make, rows[order[order < len(rows)]], DATA, seed)
    if twin is not None:
        twin(optimizer)
    if treatment is not None:
        treatment.start(optimizer)
    train(net, optimizer, without(LATER if later is None else later), DATA, treatment)
    return net, State.of(optimizer)


def case(treatment=None, **options) -> tuple[State, State, Probes]:
    """An unlearned learner, its counterfactual and probes."""
    net, unlearned = learner(shampoo, FIRST, treatment, **options)
    matched = None if treatment is None else treatment.matched()
    later = options.get("later")
    _, counterfactual = learner(shampoo, without(FIRST), matched, later=later)
    return unlearned, counterfactual, network_probes(net, DATA, GONE)


def value(report, metric: str, reference: str = "plain") -> float:
    table: Any = report.table
    chosen = (table["metric"] == metric) & (table["reference"] == reference)
    (found,) = table[chosen]["value"].tolist()
    return float(found)


# -- verdicts -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [shampoo, torch.optim.AdamW, EigenONS])
def test_a_counterfactual_passes_against_itself_with_zeros(make):
    net, state = learner(make, without(FIRST))
    report = audit(state, state, probes=network_probes(net, DATA, GONE))
    assert max(report.table["value"].tolist()) < 1e-6
    for level in (None, 0, 1, 2):
        for axis in (None, "fidelity", "erasure"):
            if (level, axis) != (1, "erasure"):
                assert report.passed(level, axis)
    assert report in {report}  # compared as an object, since its table cannot be


def test_an_untreated_memory_keeps_the_forget_set():
    unlearned, counterfactual, probes = case()
    null = [learner(shampoo, without(FIRST), seed=s)[1] for s in (1, 2)]
    report = audit(unlearned, counterfactual, probes=probes, null=null)
    assert not report.passed(2, "erasure")
    table = report.table.set_index("metric")
    assert table.loc["forget_energy", "ratio"] > 3
    assert (
        table.loc["forget_energy", "null_max"]
        >= table.loc["forget_energy", "null_median"]
    )
    energies = report.energies
    apart = energies["unlearned"] - energies["plain"]
    assert abs(apart) == pytest.approx(value(report, "forget_energy"))
    assert apart > 0


def test_a_reset_is_judged_against_a_counterfactual_that_was_reset():
    at_once = audit(*case(Reset(), later=LATER[:0])[:2], probes=case()[2])
    assert at_once.passed(2, "erasure")
    assert value(at_once, "forget_energy") == 0.0
    untreated, plain, probes = case()
    unlearned, matched, _ = case(Reset())
    before = audit(untreated, plain, probes=probes)
    report = audit(unlearned, plain, probes=probes, policy_matched=matched)
    # what is left comes from gradients at parameters that have seen the forget set
    left = value(report, "forget_energy", "policy-matched")
    assert 0 < left < value(before, "forget_energy")
    erasure = report.table[report.table["axis"] == "erasure"]
    assert set(erasure["reference"]) == {"policy-matched"}
    assert report.policies == ("Reset()",)


def test_memories_that_do_not_depend_on_parameters_are_equal_after_a_reset():
    """Columns of a linear model are its inputs: what follows a reset is the same."""
    x, y = DATA[0], DATA[0] @ torch.arange(1.0, 5.0).double()

    def run(rows, treatment):
        weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer = EigenONS([weight], rank=4, statistic="ggn")
        for part in (rows, None, without(LATER)):
            if part is None:
                treatment.start(optimizer)
                continue
            for i in part.tolist():
                weight.grad = (x[i] * (x[i] @ weight - y[i])).detach()
                optimizer.step(factor=x[i, :, None])
        return State.of(optimizer)

    def gradients(theta, rows):
        return x[rows] * (x[rows] @ theta - y[rows])[:, None]

    def losses(theta, rows):
        return 0.5 * (x[rows] @ theta - y[rows]).square()

    rest = (~GONE).nonzero().flatten()
    probes = Probes(
        GONE.nonzero().flatten(),
        rest,
        rest,
        gradients,
        losses,
        reference=torch.zeros(4).double(),
    )
    plain = run(without(FIRST), Untreated())
    for treatment, clean in ((Reset(), True), (Shrink(0.5), False)):
        unlearned, matched = (run(r, treatment) for r in (FIRST, without(FIRST)))
        report = audit(unlearned, plain, probes=probes, policy_matched=matched)
        assert report.passed(2, "erasure") == clean
        assert (value(report, "airm", "policy-matched") < 1e-6) == clean
        assert (
            value(report, "airm") > 0.1
        )  # a clean memory is far from an untreated one


# -- twins ----------------------------------------------------------------------------


def test_a_reset_of_the_cache_alone_is_found_out():
    """Its factors remember, and the next step computes the roots from them."""
    none = LATER[:0]
    clean, matched, probes = case(Reset(), later=none)
    twin, _, _ = case(None, twin=reset_cache_alone, later=none)
    assert twin.policies == clean.policies
    assert audit(clean, matched, probes=probes).passed(2, "erasure")
    seeds = [
        learner(shampoo, without(FIRST), Reset(), seed=s, later=none)[1] for s in (1, 2)
    ]
    found = audit(twin, matched, probes=probes, null=seeds)
    assert not found.passed(2, "erasure")
    assert value(found, "forget_energy") > 1
    # one step later the cache remembers too
    twin, _, _ = case(None, twin=reset_cache_alone, later=LATER[:3])
    clean, matched, _ = case(Reset(), later=LATER[:3])
    used = [
        value(audit(s, matched, probes=probes), "used_energy") for s in (clean, twin)
    ]
    assert used[1] > used[0]


def test_a_reset_of_the_factors_alone_is_found_out():
    """Steps use roots that were computed before, as long as they are kept."""

    def make(params):
        return shampoo(params, steps=40)

    def lazy(optimizer):
        reset_factors_alone(optimizer, FLOOR)

    later = LATER[:15]
    net, twin = learner(make, FIRST, twin=lazy, later=later)
    _, clean = learner(make, FIRST, Reset(), later=later)
    _, matched = learner(make, without(FIRST), Reset(), later=later)
    probes = network_probes(net, DATA, GONE)
    good = audit(clean, matched, probes=probes)
    bad = audit(twin, matched, probes=probes)
    assert value(bad, "used_energy") > 3 * value(good, "used_energy")


def test_a_counterfactual_without_the_treatment_is_refused():
    unlearned, _, probes = case(Reset())
    _, untreated, _ = case()
    with pytest.raises(ReferenceMismatchError, match="policy_matched"):
        audit(unlearned, untreated, probes=probes, policy_matched=untreated)
    report = audit(unlearned, untreated, probes=probes)
    with pytest.raises(ReferenceMismatchError, match="erasure cannot be judged"):
        report.passed()
    assert isinstance(report.passed(axis="fidelity"), bool)
    assert "erasure" not in set(report.table["axis"])
    other = learner(shampoo, without(FIRST), Shrink(0.5))[1]
    with pytest.raises(ReferenceMismatchError, match="Shrink"):
        audit(unlearned, untreated, probes=probes, policy_matched=other)


def test_subtracting_what_was_never_added_is_found_out():
    make: Any = lambda params: EigenONS(params, rank=50, log="tagged")  # noqa: E731
    net, optimizer = trained_network(make, FIRST, DATA)
    never = torch.linalg.qr(torch.randn(optimizer.dim, 3).double()).Q
    honest, twin = optimizer, copy.deepcopy(optimizer)
    before = memory_of(honest)
    with pytest.raises(NotPositiveDefiniteError):
        Downdate(gradients=10 * never.mT).start(honest)
    assert airm(before, memory_of(honest)) < 1e-9
    downdate_by_clamping(twin, 10 * never)
    assert airm(before, memory_of(twin)) > 0.1
    report = audit(
        State.of(twin),
        State.of(honest),
        probes=network_probes(net, DATA, GONE),
        policy_matched=State.of(twin),
    )
    assert value(report, "airm") > 0.1


# -- results --------------------------------------------------------------------------


def test_results_go_to_arviz_and_to_a_page(tmp_path):
    make: Any = lambda params: EigenONS(params, rank=20)  # noqa: E731
    net, optimizer = trained_network(make, FIRST, DATA)
    trajectory = Trajectory(Decay(0.1, every=2))
    trajectory.start(optimizer)
    for step, i in enumerate(without(LATER)[:6].tolist(), 1):
        train(net, optimizer, torch.tensor([i]), DATA)
        trajectory.after_step(optimizer, step)
    assert len(trajectory.rows) == 7
    assert len(trajectory.moves) == 6
    sd, realised = trajectory.volatility()
    assert sd > 0
    assert realised == pytest.approx(sum(m**2 for m in trajectory.moves))
    found = get_group(trajectories_to_arviz(trajectory.rows), "unlearning")
    assert found is not None
    assert found["value"].dims == ("treatment", "step", "metric")
    assert found["value"].shape == (1, 7, 5)
    _, plain = learner(make, without(FIRST))
    matched = dataclasses.replace(plain, policies=State.of(optimizer).policies)
    report = audit(
        State.of(optimizer),
        plain,
        probes=network_probes(net, DATA, GONE),
        policy_matched=matched,
        rows=trajectory.rows,
    )
    idata = report.to_arviz()
    group = get_group(idata, "audit")
    assert group is not None
    assert group["value"].dims == ("reference", "metric")
    number = group["value"].sel(reference="plain", metric="airm").item()
    assert number == value(report, "airm")
    assert get_group(idata, "unlearning") is not None
    text = report.report(tmp_path / "audit.html").read_text()
    for words in (
        "Erasure, policy-matched",
        "Decay(rho=0.1",
        "forget energy",
        "no band",
    ):
        assert words in text
    assert text.count("<img") >= 4


def test_states_must_be_alike():
    unlearned, counterfactual, probes = case()
    short = dataclasses.replace(
        counterfactual, parameters=counterfactual.parameters[:-1]
    )
    with pytest.raises(ReferenceMismatchError, match="parameters of state 'plain'"):
        audit(unlearned, short, probes=probes)
    other = learner(torch.optim.AdamW, without(FIRST))[1]
    renamed = dataclasses.replace(other, memory=type(other.memory)({"x": other.memory}))
    with pytest.raises(ReferenceMismatchError, match="blocks of the memory"):
        audit(unlearned, renamed, probes=probes)
    strange = learner(shampoo, without(FIRST), Shrink(0.5))[1]
    with pytest.raises(ReferenceMismatchError, match="null state 0"):
        audit(unlearned, counterfactual, probes=probes, null=[strange])
    report = audit(unlearned, counterfactual, probes=probes)
    with pytest.raises(ConfigurationError, match="axis"):
        report.passed(axis="speed")  # type: ignore[arg-type]
    assert not report.passed()
