"""How chains are shared out among modes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.modes._shares import share_chains

WEIGHTS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6)


@given(WEIGHTS, st.integers(1, 40))
def test_every_mode_has_a_chain_where_there_are_enough(weights, num_chains):
    shares = torch.tensor(sorted(weights, reverse=True), dtype=torch.float64)
    chosen = share_chains(shares / shares.sum(), num_chains, "weighted")
    assert len(chosen) == num_chains
    assert bool((chosen.diff() >= 0).all())
    assert len(chosen.unique()) == min(num_chains, len(weights))


@given(WEIGHTS, st.integers(6, 40))
def test_another_chain_takes_none_away(weights, num_chains):
    shares = torch.tensor(sorted(weights, reverse=True), dtype=torch.float64)
    fewer, more = (
        torch.bincount(share_chains(shares, n, "weighted"), minlength=len(weights))
        for n in (num_chains, num_chains + 1)
    )
    assert bool((more >= fewer).all())


def test_shares_follow_weights():
    weights = torch.tensor([0.6, 0.3, 0.1])
    chosen = share_chains(weights, 1000, "weighted")
    share = torch.bincount(chosen).double() / 1000
    torch.testing.assert_close(share, weights.double(), atol=2e-3, rtol=0)


def test_strategies():
    weights = torch.tensor([0.9, 0.05, 0.05])
    assert share_chains(weights, 7, "spread").tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert share_chains(weights, 3, "best").tolist() == [0, 0, 0]
    assert share_chains(weights, 2, "weighted").tolist() == [0, 1]
    with pytest.raises(ConfigurationError, match="strategy"):
        share_chains(weights, 2, "most")  # type: ignore[arg-type]
