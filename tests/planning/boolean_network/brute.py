"""Boolean networks by listing every transition: slow, plain, and of another making."""

import itertools

import numpy as np


def states(n):
    return list(itertools.product((0, 1), repeat=n))


def follow(rules, x):
    """Next state without noise; rules are pairs of regulators and a table."""
    out = []
    for regulators, table in rules:
        row = int("".join(str(x[j]) for j in regulators) or "0", 2)
        out.append(int(table[row]))
    return tuple(out)


def with_entries(rules, unknown, values):
    tables = [list(table) for _, table in rules]
    for (gene, row), value in zip(unknown, values, strict=True):
        tables[gene][row] = str(int(value))
    return [(r, "".join(t)) for (r, _), t in zip(rules, tables, strict=True)]


def matrix(rules, flips, p):
    """Transition matrix, `(2^n, 2^n)`, for one set of flips."""
    n = len(rules)
    p = np.broadcast_to(p, (n,))
    every = states(n)
    P = np.zeros((len(every), len(every)))
    for i, x in enumerate(every):
        middle = [a ^ b for a, b in zip(follow(rules, x), flips, strict=True)]
        for j, z in enumerate(every):
            P[i, j] = np.prod(
                [p[k] if z[k] != middle[k] else 1 - p[k] for k in range(n)]
            )
    return P


def likelihood(y, log_density):
    """Likelihood of each state; `log_density(value, bit)` of one measurement."""
    n = len(y)
    total = [
        sum(log_density(y[k], x[k]) for k in range(n) if not np.isnan(y[k]))
        for x in states(n)
    ]
    return np.exp(total)


def evidence_by_paths(P, E, start):
    """Probability of the measurements as a sum over every path of the states."""
    T, S = E.shape
    total = 0.0
    for path in itertools.product(range(S), repeat=T):
        term = start[path[0]] * E[0, path[0]]
        for t in range(1, T):
            term *= P[t - 1][path[t - 1], path[t]] * E[t, path[t]]
        total += term
    return total


def random_rules(rng, n, most=3):
    rules = []
    for _ in range(n):
        m = int(rng.integers(0, min(most, n) + 1))
        regulators = rng.choice(n, m, replace=False).tolist()
        table = "".join(map(str, rng.integers(0, 2, 2**m)))
        rules.append((regulators, table))
    return rules
