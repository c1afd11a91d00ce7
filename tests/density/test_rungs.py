"""The rung that a target names is the one on which its functions run."""

import pickle

import pytest
import torch

from pyro_geo.density import Target, ladder
from pyro_geo.errors import FallbackWarning
from pyro_geo.infer import HMC, MCMC
from tests.density.kinds import KINDS, Y, branch, data_as_number
from tests.density.kinds import regression as model

pytestmark = pytest.mark.filterwarnings("ignore::pyro_geo.errors.PyroGeoWarning")


def position(target, count=2):
    return torch.full((count, target.dim), 0.3, dtype=target.dtype)


def untraceable(*_):
    return None, RuntimeError("no graph")


def test_a_model_that_goes_one_chain_at_a_time_says_so_before_the_first_call():
    for compile in ("auto", True, False):
        target = Target.from_model(branch, Y, compile=compile)
        assert target.rung == "sequential"
        assert target.with_rung("compiled").rung == "sequential"
        assert target.tempered(0.5).rung == "sequential"
        assert target.with_data(2 * Y).rung == "sequential"
        assert pickle.loads(pickle.dumps(target)).rung == "sequential"
        target.value_and_grad(position(target))
        assert target.rung == "sequential"


def test_after_a_fallback_every_sibling_and_copy_knows(monkeypatch):
    target = KINDS["regression"].target(compile=True)
    before = target.with_data(*KINDS["regression"].args)
    assert target.rung == "compiled"
    monkeypatch.setattr(ladder, "_graph_of", untraceable)
    target.value_and_grad(position(target))
    monkeypatch.undo()
    copy = pickle.loads(pickle.dumps(target))
    for other in (target, before, copy, target.with_rung("traced")):
        assert other.rung == "mapped"
    assert copy.notes == target.notes != []
    assert target.with_rung("sequential").rung == "sequential"


def test_without_a_compiler(monkeypatch):
    def no_compiler(graph, examples):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(ladder, "compile_graph", no_compiler)
    target = KINDS["regression"].target(compile=True)
    target.value_and_grad(position(target))
    assert target.rung == "traced"
    assert pickle.loads(pickle.dumps(target)).rung == "traced"


def test_siblings_on_other_rungs_change_nothing():
    target = KINDS["regression"].target()
    q = position(target)
    for rung in ("mapped", "sequential", "traced"):
        fixed = target.with_rung(rung)
        fixed.value_and_grad(q)
        assert fixed.rung == rung
        assert target.rung == "traced"
        assert fixed.with_rung(None).rung == "traced"


def test_one_function_that_cannot_be_traced_is_the_lowest():
    target = KINDS["regression"].target()
    q = position(target)
    target.value_and_grad(q)
    assert target.rung == "traced"

    def reads(target, q):
        return target.log_prob(q) * float(q[0, 0])

    target.lift("reads", reads, "a function that reads")(target.data, q)
    assert target.rung == "mapped"


def test_data_as_constants_are_traced_all_the_same():
    target = Target.from_model(data_as_number, Y)
    for bound in (target, target.with_data(2 * Y)):
        bound.value_and_grad(position(bound))
        assert bound.rung == "traced"


@pytest.mark.parametrize(
    ("fitted", "args", "expected"),
    [
        (branch, (Y,), "sequential"),
        (data_as_number, (Y,), "traced"),
        (model, KINDS["regression"].args, "mapped"),
    ],
    ids=["branch", "data_as_number", "untraceable"],
)
def test_results_say_the_rung_of_the_run(monkeypatch, fitted, args, expected):
    if expected == "mapped":
        monkeypatch.setattr(ladder, "_graph_of", untraceable)
    fit = MCMC(
        HMC(fitted),
        num_samples=4,
        warmup_steps=4,
        num_chains=2,
        seed=1,
        progress_bar=False,
    ).run(*args)
    assert fit.rung == fit.target.rung == fit.attributes["rung"] == expected


def test_warnings_name_the_rung():
    with pytest.warns(FallbackWarning, match="rung 'sequential'"):
        Target.from_model(branch, Y)
