"""Controlled networks: exact values, occupancies, files and simulated runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ConvergenceWarning, ModelError
from pyro_geo.planning import MatrixDynamics, TabularVI
from pyro_geo.planning.boolean_network import (
    BooleanNetwork,
    Channel,
    NetworkControl,
    NetworkDynamics,
    NetworkRuns,
    load_networks,
    mean_rule,
    melanoma,
    network_of,
    no_control,
    state_bits,
)
from tests.planning.boolean_network import brute

FILE = Path(__file__).parents[3] / "models/data/gene_networks/networks.json"
RULES = [([1, 2], "0110"), ([0], "10"), ([0, 2], "0010")]
UNKNOWN = [(0, 2), (2, 3)]
NETWORK = BooleanNetwork(
    "abc", [r for r, _ in RULES], [t for _, t in RULES], unknown=UNKNOWN
)

pytestmark = pytest.mark.usefixtures("double_precision")


def small(**changes):
    options = {"target": "a", "bad_value": 1, "controls": ["b", "c"], "mutation": 0.05}
    return NetworkControl(NETWORK, **{**options, **changes})


def matrices(problem, p):
    """Transitions of every rule set and action, `(sets, A, S, S)`."""
    return torch.tensor(
        np.array(
            [
                [
                    brute.matrix(brute.with_entries(RULES, UNKNOWN, v), flips, p)
                    for flips in problem.actions.tolist()
                ]
                for v in NETWORK.rule_sets().tolist()
            ]
        )
    )


def test_expectations_are_those_of_the_full_matrices():
    problem, p = small(), torch.tensor([0.05, 0.2, 0.01])
    dynamics = NetworkDynamics(
        NETWORK, problem.actions, mutation=p, values=NETWORK.rule_sets()
    )
    full = MatrixDynamics(matrices(problem, p.numpy()))
    values, reward = torch.randn(4, 8), torch.randn(3)
    torch.testing.assert_close(dynamics.expect(values), full.expect(values))
    # the quick way to the best action, and the way through all of them
    for r in (reward, reward[None], torch.randn(4, 1, 3), torch.randn(8, 3)):
        torch.testing.assert_close(dynamics.best(values, r), full.best(values, r))
    shared = dynamics.expect(values[0])
    torch.testing.assert_close(shared, full.expect(values[:1].expand(4, 8)))
    alone = NetworkDynamics(NETWORK, problem.actions, mutation=p)
    published = NETWORK.published_values()
    index = int(published @ torch.tensor([2, 1]))
    torch.testing.assert_close(alone.expect(values[0]), shared[index])


def test_draws_may_differ_in_the_mutation_probability():
    problem, p = small(), torch.tensor([[0.01], [0.1], [0.2], [0.3]])
    dynamics = NetworkDynamics(
        NETWORK, problem.actions, mutation=p, values=NETWORK.rule_sets()
    )
    values = torch.randn(4, 8)
    for draw in range(4):
        one = matrices(problem, float(p[draw, 0]))[draw]
        torch.testing.assert_close(
            dynamics.expect(values)[draw], MatrixDynamics(one).expect(values[draw])
        )


@pytest.mark.parametrize("combined", [False, True])
def test_solutions_are_those_of_the_full_matrices(combined):
    problem = small(combined=combined)
    assert problem.num_actions == (4 if combined else 3)
    found = problem.solve(NETWORK.rule_sets(), tolerance=1e-12)
    full = TabularVI(discount=0.95, tolerance=1e-12).solve(
        MatrixDynamics(matrices(problem, 0.05)),
        problem.action_reward,
        arrival=problem.arrival_reward,
    )
    torch.testing.assert_close(
        found.action_values, full.action_values, rtol=0, atol=1e-11
    )


def test_occupancies_are_those_of_the_stationary_law():
    problem = small()
    policy = torch.randint(3, (4, 8))
    found = problem.occupancy(policy, NETWORK.rule_sets())
    bad = state_bits(3)[:, 0] == 1
    for draw, P in enumerate(matrices(problem, 0.05)):
        chain = P[policy[draw], torch.arange(8)].T.numpy()
        law = np.linalg.lstsq(
            np.vstack([chain - np.eye(8), np.ones(8)]), np.eye(9)[-1], rcond=None
        )[0]
        assert abs(float(found[draw]) - law[bad].sum()) < 1e-9


@pytest.mark.parametrize(
    ("mutation", "free", "controlled"),
    [(0.01, 0.2049, 0.0335), (0.05, 0.298, 0.134), (0.1, 0.355, 0.232)],
)
def test_melanoma_has_the_known_occupancies(mutation, free, controlled):
    problem = melanoma(mutation=mutation)
    policy = problem.solve(tolerance=1e-4).policy
    digits = 4 if mutation == 0.01 else 3
    assert round(float(problem.occupancy(torch.zeros(1024).long())), digits) == free
    assert round(float(problem.occupancy(policy)), digits) == controlled


def test_a_law_that_does_not_settle_warns():
    with pytest.warns(ConvergenceWarning, match="3 steps"):
        small().dynamics().stationary(torch.zeros(8).long(), max_steps=3)


# -- files ----------------------------------------------------------------------------


def test_the_bundled_networks_are_read():
    problems = load_networks(FILE, mutation=0.02)
    records = json.loads(FILE.read_text())
    assert [p.name for p in problems] == [r["name"] for r in records]
    for problem, record in zip(problems, records, strict=True):
        network = problem.network
        assert network.genes == tuple(record["genes"])
        assert network.tables == tuple(r["table"] for r in record["rules"])
        assert network.unknown == tuple(
            (u["gene"], u["row"]) for u in record["uncertain"]
        )
        assert problem.target == record["target"]["gene"]
        assert problem.bad_value == record["target"]["bad_value"]
        assert problem.actions[1:].nonzero()[:, 1].tolist() == record["controls"]
        assert problem.fixed_inputs == record["fixed_inputs"]
        assert problem.mutation == 0.02
        rules = [(r["regulators"], r["table"]) for r in record["rules"]]
        x = np.random.default_rng(0).integers(0, 2, network.num_genes)
        assert network.step(torch.tensor(x)).tolist() == list(brute.follow(rules, x))


@pytest.mark.parametrize("index", [0, 1, 4])
def test_control_of_the_bundled_networks_helps(index):
    problem = load_networks(FILE)[index]
    policy = problem.solve(tolerance=1e-4).policy
    free = problem.occupancy(torch.zeros_like(policy))
    assert free > 0.9
    assert problem.occupancy(policy) < 0.05
    # flips of other genes reach the target later than in one step
    assert (problem.solve(horizon=1).policy == 0).all()
    assert (problem.solve(horizon=2).policy != 0).any()


def record(**changes):
    good = {
        "name": "pair",
        "genes": ["a", "b", "c"],
        "rules": [
            {"regulators": [1, "dose"], "table": "0110"},
            {"regulators": ["a"], "table": "10"},
            {"regulators": [], "table": "1"},
        ],
        "fixed_inputs": {"dose": 1},
        "target": {"gene": "a", "bad_value": 1},
        "controls": ["b", 2],
        "uncertain": [{"gene": "a", "row": 3}, {"gene": 1, "row": 0}],
    }
    return {**good, **changes}


def test_fixed_inputs_are_put_into_the_tables():
    problem = network_of(record())
    assert problem.network.tables == ("10", "10", "1")
    assert problem.network.regulators == ((1,), (0,), ())
    # rows one and three of four are left: row three is now row one
    assert problem.network.unknown == ((0, 1), (1, 0))
    costs = network_of(record(bad_cost=3, flip_cost=0.5))
    assert (costs.bad_cost, costs.flip_cost) == (3.0, 0.5)


def rules(**changes):
    changed = [dict(rule) for rule in record()["rules"]]
    changed[1].update(changes)
    return {"rules": changed}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (rules(table="101"), "pair.*truth table.*gene 'b'.*3 entries.*2 char"),
        (rules(table="1x"), "pair.*truth table.*'b'"),
        (rules(table=10), "pair.*truth table.*'b'"),
        (rules(regulators=["z"]), "pair.*unknown gene.*'b'.*'z'"),
        (rules(regulators=[7]), "pair.*unknown gene.*'b'.*7"),
        ({"rules": record()["rules"][:2]}, "pair.*2 rules for 3 genes"),
        ({"target": {"gene": "z", "bad_value": 1}}, "unknown gene.*target.*pair.*'z'"),
        ({"target": {"gene": "a", "bad_value": 2}}, "bad_value.*pair.*2.*0 or 1"),
        ({"target": {"gene": "a"}}, "pair.*bad_value"),
        ({"controls": ["a"]}, "wrong controls.*pair.*target 'a'"),
        ({"controls": []}, "wrong controls.*pair"),
        ({"controls": ["b", "b"]}, "wrong controls.*pair"),
        ({"controls": [9]}, "unknown gene.*controls.*pair.*9"),
        ({"uncertain": [{"gene": "a", "row": 2}]}, r"pair.*'a'.*2.*\[1, 3\]"),
        ({"uncertain": [{"gene": "b", "row": 5}]}, "pair.*'b'.*5"),
        ({"uncertain": [{"gene": "z", "row": 0}]}, "pair.*unknown gene.*'z'"),
        ({"uncertain": [{"row": 0}]}, "pair.*gene"),
        ({"fixed_inputs": {"dose": 2}}, "fixed inputs.*pair.*dose.*2"),
        ({"fixed_inputs": {"dose": 1, "a": 0}}, "fixed inputs.*pair.*'a'"),
        ({"fixed_inputs": {}}, "pair.*unknown gene.*'a'.*'dose'"),
        ({"genes": ["a", "b", "b"]}, "pair.*distinct.*b"),
    ],
)
def test_a_wrong_record_is_named(changes, words):
    with pytest.raises(ModelError, match=words):
        network_of(record(**changes))


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "networks.json"
    for text, words in (
        ("[{", "no JSON file.*networks.json"),
        ("{}", "no list of networks"),
        ("[]", "no list of networks"),
        ("[3]", "network '3'"),
        ('[{"name": "half", "genes": []}]', "not complete.*half.*rules"),
    ):
        path.write_text(text)
        with pytest.raises(ModelError, match=words):
            load_networks(path)


# -- runs -----------------------------------------------------------------------------


def test_runs_meet_the_same_noise_under_every_controller(seed):
    problem = small(channel=Channel.bernoulli(0.1))
    runs = NetworkRuns(problem, num_runs=5, num_steps=8, seed=seed)
    q = problem.solve(NETWORK.rule_sets()).action_values
    idle = runs.unknown(no_control, q)
    known, learned = runs.known(q), runs.unknown(mean_rule, q)
    for episodes in (idle, known, learned):
        assert torch.equal(episodes.states[0], idle.states[0])
        # mutations and wrong readings, found by undoing what is known
        ahead = NETWORK.step(episodes.states[:-1], runs.truth)
        moved = ahead ^ problem.actions[episodes.actions]
        again = NETWORK.step(idle.states[:-1], runs.truth)
        assert torch.equal(moved ^ episodes.states[1:], again ^ idle.states[1:])
        alike = episodes.states == idle.states
        assert torch.equal(episodes.observations[alike], idle.observations[alike])
        wrong = (episodes.observations != episodes.states).double().mean()
        assert 0 < wrong < 0.3
        cost = 1.0 * (episodes.states[1:, :, 0] == 1) + 0.2 * (episodes.actions > 0)
        torch.testing.assert_close(episodes.costs, cost)
    assert (idle.actions == 0).all()
    assert known.log_weights.shape == (9, 5, 1)
    torch.testing.assert_close(
        learned.log_weights.exp().sum(-1), torch.ones(9, 5), rtol=0, atol=1e-12
    )


def test_a_controller_that_draws_at_random_leaves_the_noise(seed):
    problem = small(channel=Channel.normal(0.0, 1.0, 2.0, 1.0))
    runs = NetworkRuns(problem, num_runs=3, num_steps=6, seed=seed)
    q = problem.solve(NETWORK.rule_sets()).action_values

    def thompson(values, log_weights):
        drawn = torch.multinomial(log_weights.exp(), 1)[..., None]
        picked = values.gather(-2, drawn.expand(-1, 1, values.shape[-1]))
        return picked[:, 0].argmax(-1)

    before = torch.random.get_rng_state()
    first, second = runs.unknown(thompson, q), runs.unknown(no_control, q)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(first.actions, second.actions)
    off, on = first.states == 0, first.states == 1
    for kind in (off, on):  # each law has its own noise
        alike = kind & (first.states == second.states)
        assert torch.equal(first.observations[alike], second.observations[alike])


def test_other_seeds_have_other_noise():
    problem = small(channel=Channel.normal(0.0, 1.0, 2.0, 1.0))
    q = problem.solve(NETWORK.rule_sets()).action_values
    noise = [
        NetworkRuns(problem, num_runs=1, num_steps=6, seed=seed)
        .unknown(no_control, q)
        .observations.flatten()
        for seed in (0, 1)
    ]
    # no number of one is found in the other, at the same step or at another
    assert not (noise[0][:, None] == noise[1]).any()


def test_a_network_without_unknown_rules_is_one_rule_set():
    network = BooleanNetwork("abc", [r for r, _ in RULES], [t for _, t in RULES])
    problem = NetworkControl(network, target=0, bad_value=1, controls=[1])
    solved = problem.solve(network.rule_sets())
    assert solved.action_values.shape == (1, 8, 2)
    runs = NetworkRuns(problem, num_runs=3, num_steps=5, seed=0)
    q = solved.action_values
    known, learned = runs.known(q), runs.unknown(mean_rule, q)
    assert torch.equal(known.states, learned.states)
    assert torch.equal(learned.log_weights, torch.zeros(6, 3, 1))


def test_the_long_run_cost_is_that_of_the_stationary_law(seed):
    problem = small()
    runs = NetworkRuns(
        problem,
        num_runs=400,
        num_steps=200,
        seed=seed,
        truth=NETWORK.published_values().expand(400, 2),
    )
    solved = problem.solve()
    q = problem.solve(NETWORK.rule_sets()).action_values
    bad = (runs.known(q).states[50:, :, 0] == 1).double().mean(0)  # (runs,)
    expected = float(problem.occupancy(solved.policy))
    error = float(bad.std()) / 400**0.5
    assert abs(float(bad.mean()) - expected) < 5 * error


def test_learning_the_rules_approaches_knowing_them(seed):
    problem = load_networks(FILE, channel=Channel.bernoulli(0.05))[0]
    sets = problem.network.rule_sets()
    q = problem.solve(sets, tolerance=1e-4).action_values
    runs = NetworkRuns(problem, num_runs=64, num_steps=60, seed=seed)
    late = {
        name: episodes.costs[30:].mean(0)
        for name, episodes in {
            "none": runs.known(q, no_control),
            "known": runs.known(q),
            "learned": runs.unknown(mean_rule, q),
            "myopic": runs.unknown(
                mean_rule, problem.solve(sets, horizon=1).action_values
            ),
        }.items()
    }
    assert torch.equal(late["myopic"], late["none"])  # it never acts
    gain = late["none"] - late["known"]
    assert gain.mean() > 5 * gain.std() / 8
    regret = late["learned"] - late["known"]
    assert regret.mean() < 0.1 * gain.mean() + 3 * regret.std() / 8


def test_mistakes_of_a_problem_and_its_runs_are_named():
    with pytest.raises(ModelError, match="unknown gene.*target"):
        small(target="z")
    with pytest.raises(ConfigurationError, match="flip_cost"):
        small(flip_cost=-1.0)
    with pytest.raises(ConfigurationError, match="mutation"):
        small(mutation=1.5)
    with pytest.raises(ConfigurationError, match="truth"):
        NetworkRuns(
            small(), num_runs=1, num_steps=1, seed=0, truth=torch.tensor([[0, 2]])
        )
