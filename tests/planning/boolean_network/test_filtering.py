"""Filters and rule posteriors against full matrices and against one another."""

import math

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.planning.boolean_network import (
    BeliefFilter,
    BooleanNetwork,
    Channel,
    StateFilter,
    log_likelihood,
    rule_posterior,
    state_bits,
    state_index,
    transition_log_prob,
)
from pyro_geo.planning.boolean_network.filtering import rule_log_prior
from tests.planning.boolean_network import brute

RULES = [([1, 2], "0110"), ([0], "10"), ([0, 2], "0010")]
UNKNOWN = [(0, 2), (2, 3), (1, 0)]
NETWORK = BooleanNetwork(
    "abc", [r for r, _ in RULES], [t for _, t in RULES], unknown=UNKNOWN
)
ACTIONS = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 1]])
CHANNEL = Channel.bernoulli(torch.tensor(0.1, dtype=torch.float64))
PRIOR = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def series(seed):
    """Measurements of six runs and the actions between them."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (5, 6, 3), generator=g).double()
    y[1, 2, 0] = math.nan
    return y, torch.randint(3, (4, 6), generator=g)


def filtered(rules, y, actions):
    belief = rules.start(y[0])
    for action, seen in zip(actions, y[1:], strict=True):
        belief = rules.step(belief, action, seen)
    return belief


def test_the_filter_is_bayes_rule_with_full_matrices(series):
    y, actions = series
    start = torch.rand(8) + 0.1
    start = start / start.sum()
    rules = BeliefFilter(
        NETWORK,
        ACTIONS,
        mutation=0.07,
        channel=CHANNEL,
        log_prior=rule_log_prior(NETWORK.rule_sets(), PRIOR),
        initial=start,
    )
    belief = filtered(rules, y, actions)
    prior = rule_log_prior(NETWORK.rule_sets(), PRIOR).exp().numpy()
    for run in range(6):
        joint = prior[:, None] * start.numpy()
        for t in range(5):
            if t:
                for k, values in enumerate(NETWORK.rule_sets().tolist()):
                    changed = brute.with_entries(RULES, UNKNOWN, values)
                    flips = ACTIONS[actions[t - 1, run]].tolist()
                    joint[k] = joint[k] @ brute.matrix(changed, flips, 0.07)
            joint = joint * brute.likelihood(
                y[t, run].numpy(), lambda v, x: np.log(0.9 if v == x else 0.1)
            )
        total = joint.sum()
        assert abs(float(belief.log_evidence[run]) - np.log(total)) < 1e-12
        found = belief.log_weights[run].exp()[:, None] * belief.states[run]
        np.testing.assert_allclose(found, joint / total, rtol=0, atol=1e-13)
        bits = np.array(brute.states(3))
        expected = (joint / total).sum(0) @ bits
        genes = rules.gene_probability(belief)[run]
        np.testing.assert_allclose(genes, expected, rtol=0, atol=1e-13)


def test_all_actions_of_all_runs_are_predicted_at_once(series):
    y, _ = series
    rules = BeliefFilter(NETWORK, ACTIONS, mutation=0.07, channel=CHANNEL)
    belief = rules.start(y[0])
    wide = belief._replace(states=belief.states[:, None])
    found = rules.predict(wide, torch.arange(3)).states  # (runs, actions, draws, S)
    for action in range(3):
        one = rules.predict(belief, torch.full((6,), action)).states
        torch.testing.assert_close(found[:, action], one)


def test_many_runs_are_split_without_a_difference(series, monkeypatch):
    y, actions = series
    rules = BeliefFilter(NETWORK, ACTIONS, mutation=0.07, channel=CHANNEL)
    whole = filtered(rules, y, actions)
    monkeypatch.setattr("pyro_geo.planning.boolean_network.filtering._NUMBERS", 130)
    for a, b in zip(filtered(rules, y, actions), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def test_draws_may_differ_in_mutation_and_channel(series):
    y, actions = series
    values = NETWORK.rule_sets()[[1, 6]]
    p, q = torch.tensor([[0.02], [0.2]]), torch.tensor([[0.05], [0.3]])
    rules = BeliefFilter(
        NETWORK,
        ACTIONS,
        mutation=p,
        channel=Channel.bernoulli(q),
        values=values,
        log_prior=torch.tensor([0.25, 0.75]).log(),
    )
    belief = filtered(rules, y, actions)
    flips = ACTIONS[actions].movedim(0, 1)  # (runs, T - 1, n)
    each = [
        log_likelihood(
            NETWORK,
            y.movedim(0, 1),
            flips,
            mutation=p[k, 0],
            channel=Channel.bernoulli(q[k, 0]),
            values=values[k],
        )
        for k in range(2)
    ]
    joint = torch.stack(each, -1) + torch.tensor([0.25, 0.75]).log()
    torch.testing.assert_close(belief.log_evidence, joint.logsumexp(-1))
    torch.testing.assert_close(belief.log_weights, joint.log_softmax(-1))


def test_each_run_may_have_its_own_rules(series):
    y, actions = series
    truth = NETWORK.rule_sets()[[0, 3, 5, 7, 2, 4]]
    own = BeliefFilter(
        NETWORK, ACTIONS, mutation=0.07, channel=CHANNEL, values=truth[:, None]
    )
    found = filtered(own, y, actions)
    every = BeliefFilter(NETWORK, ACTIONS, mutation=0.07, channel=CHANNEL)
    all_sets = filtered(every, y, actions)
    q = torch.randn(8, 8, 3)
    values = own.action_values(found, q[state_index(truth)][:, None])
    expected = every.action_values(all_sets, q)
    for run, k in enumerate(state_index(truth).tolist()):
        torch.testing.assert_close(found.states[run, 0], all_sets.states[run, k])
        torch.testing.assert_close(values[run, 0], expected[run, k])
        mean = all_sets.states[run, k] @ q[k]
        torch.testing.assert_close(expected[run, k], mean)


def test_rule_posteriors_are_the_weights_of_the_filters(series):
    y, actions = series
    flips = ACTIONS[actions].movedim(0, 1)
    posterior = rule_posterior(
        NETWORK, y.movedim(0, 1), flips, mutation=0.07, channel=CHANNEL, prior=PRIOR
    )
    log_prior = rule_log_prior(NETWORK.rule_sets(), PRIOR)
    belief = filtered(
        BeliefFilter(
            NETWORK, ACTIONS, mutation=0.07, channel=CHANNEL, log_prior=log_prior
        ),
        y,
        actions,
    )
    torch.testing.assert_close(posterior.log_weights, belief.log_weights)
    torch.testing.assert_close(posterior.log_evidence, belief.log_evidence)
    weights = posterior.log_weights.exp()
    marginal = sum(
        weights[:, k, None] * values
        for k, values in enumerate(posterior.values.double())
    )
    torch.testing.assert_close(posterior.entry_probability, marginal)
    assert torch.equal(posterior.best, posterior.values[weights.argmax(-1)])


def test_seen_states_give_the_same_as_nearly_noise_free_measurements(series):
    y, actions = series
    y = torch.nan_to_num(y)
    flips = ACTIONS[actions].movedim(0, 1)
    seen = rule_posterior(NETWORK, y.movedim(0, 1), flips, mutation=0.07, prior=PRIOR)
    measured = rule_posterior(
        NETWORK,
        y.movedim(0, 1),
        flips,
        mutation=0.07,
        channel=Channel.bernoulli(1e-13),
        prior=PRIOR,
    )
    for a, b in zip(seen, measured, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    belief = filtered(
        StateFilter(
            NETWORK,
            ACTIONS,
            mutation=0.07,
            log_prior=rule_log_prior(NETWORK.rule_sets(), PRIOR),
        ),
        y,
        actions,
    )
    torch.testing.assert_close(belief.log_weights, seen.log_weights)
    assert torch.equal(belief.states[:, 0], state_index(y[-1]))
    q = torch.randn(8, 8, 3)
    found = StateFilter(NETWORK, ACTIONS, mutation=0.07).action_values(belief, q)
    torch.testing.assert_close(found, q[:, state_index(y[-1])].movedim(0, 1))


def test_the_first_seen_state_counts_in_the_evidence():
    start = torch.tensor([0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02])
    path = state_bits(3)[[1, 4, 4]].double()
    found = rule_posterior(NETWORK, path, mutation=0.1, initial=start)
    gain = transition_log_prob(NETWORK, path, mutation=0.1, values=NETWORK.rule_sets())
    expected = gain.logsumexp(0) - math.log(8) + math.log(0.2)
    torch.testing.assert_close(found.log_evidence, expected)


def test_samples_of_the_rules_follow_the_posterior(seed):
    path = state_bits(3)[[1, 4, 4, 2]].double()
    posterior = rule_posterior(NETWORK, path.expand(2, 4, 3), mutation=0.3)
    generator = torch.Generator().manual_seed(seed)
    drawn = posterior.sample(20_000, generator)
    assert drawn.shape == (20_000, 2, 3)
    share = drawn.double().mean(0)
    error = (share - posterior.entry_probability).abs().max()
    assert error < 5 * 0.5 / math.sqrt(20_000)


def test_what_no_draw_can_have_caused_leaves_the_weights():
    network = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 1)])
    rules = StateFilter(network, torch.zeros(1, 1), mutation=0.0)
    belief = rules.start(torch.zeros(1))
    after = rules.step(belief, torch.tensor(0), torch.ones(1))
    assert after.log_evidence == -math.inf
    assert torch.equal(after.log_weights, belief.log_weights)


def test_mistakes_are_named():
    options = {"mutation": 0.1, "channel": CHANNEL}
    with pytest.raises(ShapeError, match="actions"):
        BeliefFilter(NETWORK, torch.zeros(2, 4), **options)
    with pytest.raises(ShapeError, match="values"):
        BeliefFilter(NETWORK, ACTIONS, values=torch.zeros(3), **options)
    with pytest.raises(ShapeError, match="log_prior"):
        BeliefFilter(NETWORK, ACTIONS, log_prior=torch.zeros(3), **options)
    with pytest.raises(ShapeError, match="initial"):
        BeliefFilter(NETWORK, ACTIONS, initial=torch.ones(4), **options)
    with pytest.raises(ShapeError, match="argument y"):
        BeliefFilter(NETWORK, ACTIONS, **options).start(torch.zeros(4))
    with pytest.raises(ConfigurationError, match="prior.*1.5"):
        rule_posterior(NETWORK, torch.zeros(2, 3), mutation=0.1, prior=1.5)
    known = BooleanNetwork("a", [["a"]], ["01"])
    with pytest.raises(ConfigurationError, match="unknown entries"):
        rule_posterior(known, torch.zeros(2, 1), mutation=0.1)
