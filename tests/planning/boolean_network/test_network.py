"""Networks against rules that are looked up one state at a time."""

import itertools

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ModelError, ShapeError
from pyro_geo.planning.boolean_network import (
    BooleanNetwork,
    melanoma,
    state_bits,
    state_index,
)
from tests.planning.boolean_network import brute


def made(rules, unknown=()):
    names = [f"g{i}" for i in range(len(rules))]
    return BooleanNetwork(
        names, [r for r, _ in rules], [t for _, t in rules], unknown=unknown
    )


@pytest.mark.parametrize("case", range(6))
def test_every_state_and_rule_set_is_followed(case):
    rng = np.random.default_rng(case)
    rules = brute.random_rules(rng, 4)
    entries = [(g, r) for g, (_, table) in enumerate(rules) for r in range(len(table))]
    unknown = [entries[i] for i in rng.choice(len(entries), 3, replace=False)]
    network = made(rules, unknown)
    sets = network.rule_sets()
    assert sets.tolist() == [list(v) for v in itertools.product((0, 1), repeat=3)]
    images = network.image(sets)
    for values, image in zip(sets.tolist(), images, strict=True):
        changed = brute.with_entries(rules, unknown, values)
        expected = [brute.follow(changed, x) for x in brute.states(4)]
        assert state_bits(4)[image].tolist() == [list(x) for x in expected]
        stepped = network.step(state_bits(4), torch.tensor(values))
        assert stepped.tolist() == [list(x) for x in expected]
    published = network.published_values()
    assert torch.equal(network.image(published), network.image())
    assert network.tables == tuple(table for _, table in rules)


def test_steps_broadcast_over_draws_and_keep_the_type():
    network = made([([0, 1], "0110"), ([0], "10")], [(0, 1), (1, 0)])
    states, values = torch.rand(5, 1, 2).round(), network.rule_sets()
    found = network.step(states, values)
    assert found.shape == (5, 4, 2)
    assert found.dtype == states.dtype
    index = network.image(values)[:, state_index(states[:, 0])]  # (sets, 5)
    assert torch.equal(state_index(found), index.T)


def test_a_network_too_large_for_its_states_still_steps():
    rng = np.random.default_rng(0)
    rules = brute.random_rules(rng, 60, most=5)
    network = made(rules)
    x = rng.integers(0, 2, 60)
    assert network.step(torch.tensor(x)).tolist() == list(brute.follow(rules, x))
    with pytest.raises(ConfigurationError, match="60.*16"):
        network.image()


def test_the_first_regulator_is_the_most_significant():
    network = BooleanNetwork("abc", [["b", "c"], [], []], ["0100", "0", "1"])
    # b = 0 and c = 1 is row one
    assert network.step(torch.tensor([0, 0, 1])).tolist() == [1, 0, 1]
    assert network.step(torch.tensor([0, 1, 0])).tolist() == [0, 0, 1]


def test_melanoma_has_the_published_size():
    problem = melanoma()
    network = problem.network
    assert network.num_genes == 10
    assert sum(len(row) for row in network.regulators) == 24
    # states that a step without mutation leads to, under one of the three actions
    reached = network.image()[:, None] ^ state_index(problem.actions)
    assert len(set(reached.flatten().tolist())) == 261


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"genes": ["a", "a"]}, "distinct"),
        ({"genes": []}, "distinct"),
        ({"tables": ["01"]}, "one rule for each gene.*tables"),
        ({"regulators": [["b"]]}, "one rule for each gene.*regulators"),
        ({"regulators": [["c"], ["a"]]}, "unknown gene.*regulators of 'a'.*'c'"),
        ({"regulators": [[2], ["a"]]}, "unknown gene.*2"),
        ({"tables": ["010", "01"]}, "truth table.*gene 'a'.*3 entries.*2 characters"),
        ({"tables": ["01", "0x"]}, "truth table.*gene 'b'.*0x"),
        ({"unknown": [("a", 2)]}, "row 2 of 'a'.*below 2"),
        ({"unknown": [("c", 0)]}, "unknown gene.*unknown.*'c'"),
        ({"unknown": [("a", 0), (0, 0)]}, "each entry once"),
    ],
)
def test_mistakes_are_named(change, words):
    good = {"genes": "ab", "regulators": [["b"], ["a"]], "tables": ["01", "10"]}
    with pytest.raises(ModelError, match=words):
        BooleanNetwork(**{**good, **change})


def test_wrong_values_are_named():
    network = made([([0], "01")], [(0, 0)])
    with pytest.raises(ShapeError, match="values"):
        network.image(torch.zeros(2))
    with pytest.raises(ShapeError, match="states"):
        network.step(torch.zeros(2))
