"""The ledger: what was refused, and that it adds up."""

import numpy as np
import pytest
import torch

from pyro_geo.filtering import RefusalLedger

QUIET = {"progress_bar": False, "dt": 1.0}


@pytest.fixture(scope="module")
def track(tracker, y):
    reports = torch.where(y.isinf(), torch.nan, y)
    return tracker.filter(reports, labels=list("abcde"), **QUIET)


def test_a_spike_is_in_the_ledger(track):
    table = track.ledger.table()
    spike = table[(table["track"] == "a") & (table["step"] == 10)].iloc[0]
    assert spike["time"] == 10.0
    assert spike["level"] == 100.0
    assert spike["mode"] == "random"
    assert spike["nats severed"] > 20
    assert spike["P(nominal)"] < 1e-9


def test_totals_are_sums_of_the_table(track):
    table, totals = track.ledger.table(), track.ledger.totals()
    for label, row in totals.iterrows():
        own = table[table["track"] == label]
        assert row["refused"] == len(own)
        assert row["nats severed"] == pytest.approx(own["nats severed"].sum())
    assert totals["reports"].sum() + totals["missing"].sum() == 5 * 40


def test_the_balance_is_that_of_the_log_odds(track):
    """Prior minus posterior log-odds of each report, added up."""
    posterior = torch.logit(track.p_nominal)
    prior = posterior + track.severed
    seen = track.ledger.observed & posterior.isfinite()
    difference = torch.where(seen, prior - posterior, 0.0).sum(1)
    severed = torch.where(seen, track.severed, 0.0).sum(1)
    np.testing.assert_allclose(difference, severed, rtol=1e-9)
    # and the prior follows from the posterior before, by the chain of modes alone
    assert bool((prior[seen] < torch.logit(torch.tensor(0.99))).all())
    np.testing.assert_allclose(
        track.ledger.balance,
        torch.where(track.ledger.observed, track.severed, 0.0).sum(1),
    )


def test_nats_are_finite_where_the_nominal_runs_had_no_weight(tracker):
    """One far report after another: the second finds no nominal run but a new one."""
    y = torch.zeros(1, 30, 1, dtype=torch.float64)
    y[0, 20], y[0, 21], y[0, 22] = 40.0, -3e3, 1e9
    track = tracker.filter(y, **QUIET)
    assert track.severed.isfinite().all()
    assert (track.severed[0, 20:23] > 10).all()
    assert track.ledger.balance.isfinite().all()


def test_a_ledger_without_refusals_is_empty():
    none = torch.zeros(2, 3)
    ledger = RefusalLedger(
        torch.zeros(2, 3, 1),
        none,
        p_nominal=none + 0.9,
        severed=none,
        mode_prob=torch.tensor([0.9, 0.1]).expand(2, 3, 2),
        left_out=none > 0,
        modes=["nominal", "random"],
        channels=["level"],
        labels=[0, 1],
    )
    assert ledger.table().empty
    assert ledger.totals()["refused"].tolist() == [0, 0]
    assert ledger.totals()["mostly"].tolist() == ["", ""]
