"""What results and what makes them print, and what a notebook shows of them."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import constraints

from pyro_geo._showing import Made, Shown, notebook
from pyro_geo.density import Layout
from pyro_geo.evaluation.loo import Loo
from pyro_geo.filtering.tracker.dynamics import NearConstantVelocity
from pyro_geo.filtering.tracker.ledger import RefusalLedger
from pyro_geo.filtering.tracker.measurements import RangeBearing
from pyro_geo.filtering.tracker.sensors import Biased
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.certificates import certify_holdout
from pyro_geo.infer.certificates.report import CertificateReport
from pyro_geo.optim import DecentCEM
from pyro_geo.planning import GPTDPolicyIteration, TabularVI
from pyro_geo.planning.environments import Pendulum
from pyro_geo.planning.reports import Comparison
from pyro_geo.summaries import GaussianPosterior
from pyro_geo.summaries.merge.comparing import MergeComparison
from pyro_geo.testing.hmc import FixedHMC
from pyro_geo.unlearning.plans import DeletionPlan, Option

BAD = "<script>alert(1)</script>"


def certificate():
    return certify_holdout(torch.zeros(100).double(), delta=0.05)


def certificates():
    table = pd.DataFrame({"what is deployed": ["a"], "risk at most": [0.1]})
    return CertificateReport({"a": certificate()}, {"Certificates": table}, ())


def leave_one_out():
    columns = {"elpd": [-1.0, -2.0], "p_loo": [0.1, 0.2], "khat": [0.2, 0.9]}
    return Loo(pd.DataFrame(columns), 0.7)


def search():
    bowl = DecentCEM(num_instances=2, pop_size=200, max_iters=2)
    box = {"lower": torch.tensor([-1.0]), "upper": 1.0}
    return bowl.minimize(lambda x: x.square().sum(-1), **box)


def plan():
    def nothing(plan: DeletionPlan) -> Any:
        raise AssertionError(plan)

    option = Option("refit", True, BAD, 100.0, 2.0)
    return DeletionPlan("refit", BAD, (option,), 0.5, 0.3, nothing)


def merges():
    tasks = {"a": {"w": torch.eye(2)}, "b": {"w": -torch.eye(2)}}
    base = {"w": torch.zeros(2, 2)}
    forward = lambda p, x: x @ p["w"]  # noqa: E731
    found = MergeComparison(base, tasks, {"one": tasks["a"]}, forwards=forward)
    found.forecast({name: torch.ones(4, 2) for name in tasks})
    return found


def control():
    costs = {"ucb": torch.ones(2, 3), "prior": 2 * torch.ones(2, 3)}
    nothing: Any = None
    return Comparison(costs, torch.zeros(4, 1), nothing, torch.zeros(3, 2, 1))


def gaussian():
    layout = Layout.from_supports({"w": (torch.Size([2]), constraints.real)})
    return GaussianPosterior(torch.zeros(2), Diagonal(torch.ones(2)), layout)


RESULTS = [certificate, certificates, leave_one_out, plan, merges, control]
RESULTS += [search, gaussian]


@pytest.mark.parametrize("make", RESULTS)
def test_a_result_is_one_line_and_one_table(make):
    result = make()
    shown = repr(result)
    assert str(shown).count("\n") == 0
    assert len(shown) < 400
    assert "tensor(" not in shown
    assert " at 0x" not in shown
    html = result._repr_html_()
    assert html.count("<table") == html.count("</table>") == 1
    assert BAD not in html
    # nothing from elsewhere, and no colours that a dark page would hide
    assert not re.search(r"https?://|src=|color|background|<style", html)


def test_results_say_what_matters():
    assert repr(certificate()).startswith("Certificate(risk at most 0.0")
    assert "If true: The certifying examples" in certificate()._repr_html_()
    assert "not to be trusted 1" in repr(leave_one_out())
    assert repr(control()) == "Comparison(runs 2, steps 3, ucb 3, prior 6)"
    assert "losses forecast" in repr(merges())
    assert repr(plan()).startswith("DeletionPlan(method refit, possible ways 1")
    assert "&lt;script&gt;" in plan()._repr_html_()


def test_long_tables_are_cut():
    html = notebook("t", pd.DataFrame({"a": range(1000)}))
    assert html.count("<tr") == 61
    assert "The first 60 of 1,000 rows." in html


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (Pendulum(), "Pendulum()"),
        (NearConstantVelocity(0.5), "NearConstantVelocity(q=...)"),
        (RangeBearing(), "RangeBearing()"),
        (Biased(), "Biased()"),
        (TabularVI(), "TabularVI()"),
        (GPTDPolicyIteration(num_steps=7), "GPTDPolicyIteration(num_steps=7)"),
        (FixedHMC(lambda: None, step_size=0.1, num_steps=2), None),
    ],
)
def test_what_makes_results_shows_its_options(made, shown):
    assert " at 0x" not in repr(made)
    assert shown in (None, repr(made))


def test_options_are_short_whatever_they_are():
    class Thing(Made):
        def __init__(self, data, path, other=1, *, flag=False):
            self.data, self._path, self.flag = data, path, flag

    assert repr(Thing(torch.zeros(2, 3), "x" * 100)) == (
        "Thing(data=tensor of (2, 3), path=str)"
    )
    assert "flag=True" in repr(Thing(None, "p", flag=True))
    assert repr(Thing(np.eye(2), "p")) == "Thing(data=ndarray, path='p')"


def test_options_in_pairs_may_be_tensors():
    class Thing(Made):
        def __init__(self, ends=(0.0, 1.0)):
            self.ends = ends

    assert repr(Thing((torch.zeros(2), torch.ones(2)))).startswith("Thing(ends=")
    assert repr(Thing((0, 1.0))) == "Thing()"


def test_a_result_without_facts_still_prints():
    assert repr(Shown()) == "Shown()"
    assert Shown()._repr_html_() == "<p><code>Shown()</code></p>"


def test_a_ledger_makes_its_table_once(monkeypatch):
    shape, make = (2, 3), RefusalLedger.table
    tables = []
    monkeypatch.setattr(
        RefusalLedger, "table", lambda self: tables.append(make(self)) or tables[-1]
    )
    ledger = RefusalLedger(
        torch.zeros(*shape, 1),
        torch.arange(3.0).expand(shape),
        p_nominal=torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.9, 0.3]]),
        severed=torch.ones(shape),
        mode_prob=torch.full((*shape, 2), 0.5),
        left_out=torch.zeros(shape, dtype=torch.bool),
        modes=["nominal", "random"],
        channels=["level"],
        labels=["A", "B"],
    )
    assert repr(ledger) == "RefusalLedger(refused reports 3)"
    assert ledger._repr_html_().count("<tr") == 4
    assert len(tables) == 1
