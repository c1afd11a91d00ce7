"""Functions on the states against full matrices and sums."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.planning.boolean_network.hypercube import (
    condition,
    evidence,
    mix,
    push,
    state_bits,
    state_index,
)

pytestmark = pytest.mark.usefixtures("double_precision")


def noise_matrix(p):
    """All flips of independent genes, `(2^n, 2^n)`."""
    states = list(itertools.product((0, 1), repeat=len(p)))
    rows = [
        [
            np.prod([q if a != b else 1 - q for a, b, q in zip(x, z, p, strict=True)])
            for z in states
        ]
        for x in states
    ]
    return torch.tensor(np.array(rows))


def test_bits_and_indices_are_inverse_and_the_first_gene_leads():
    bits = state_bits(7)
    assert torch.equal(state_index(bits), torch.arange(128))
    assert [tuple(row) for row in bits.tolist()] == list(
        itertools.product((0, 1), repeat=7)
    )


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7])
def test_mixing_is_the_full_matrix(n):
    p, v = torch.rand(n), torch.randn(3, 2**n)
    torch.testing.assert_close(
        mix(v, p), v @ noise_matrix(p.tolist()), rtol=0, atol=1e-13
    )
    one = mix(v, 0.07)
    torch.testing.assert_close(one, v @ noise_matrix([0.07] * n), rtol=0, atol=1e-13)


def test_mixing_of_many_genes_is_the_expectation_in_one_state():
    # three groups of bits, the last one smaller
    p, v, s = torch.rand(12), torch.randn(2**12), 1234
    differs = state_bits(12)[s] ^ state_bits(12)
    weights = torch.where(differs == 1, p, 1 - p).prod(-1)
    torch.testing.assert_close(mix(v, p)[s], (weights * v).sum(), rtol=0, atol=1e-12)


def test_mixing_takes_a_probability_for_each_draw_and_gene():
    p, v = torch.rand(4, 6), torch.randn(5, 4, 64)
    found = mix(v, p)
    for draw in range(4):
        expected = v[:, draw] @ noise_matrix(p[draw].tolist())
        torch.testing.assert_close(found[:, draw], expected, rtol=0, atol=1e-13)
    same = mix(v, p[:, :1])
    torch.testing.assert_close(same[:, 2], mix(v[:, 2], p[2, 0]), rtol=0, atol=1e-14)
    wide = mix(v[0, 0], p)  # one function, all draws
    torch.testing.assert_close(wide[3], mix(v[0, 0], p[3]), rtol=0, atol=1e-14)


@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 2**31))
def test_mixing_keeps_mass_is_symmetric_and_composes(n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    v, w = torch.randn(2, 2**n, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mix(v, p).sum(), v.sum(), rtol=0, atol=1e-10)
    torch.testing.assert_close(mix(v, p) @ w, v @ mix(w, p), rtol=0, atol=1e-10)
    twice = mix(mix(v, p), p)  # two flips in a row differ from none with 2p(1-p)
    torch.testing.assert_close(twice, mix(v, 2 * p * (1 - p)), rtol=0, atol=1e-10)


def test_mixing_is_differentiable_in_both_arguments():
    p = torch.rand(2, 6, requires_grad=True)
    v = torch.randn(2, 64, requires_grad=True)
    assert torch.autograd.gradcheck(mix, (v, p))


def test_push_collects_what_meets_and_broadcasts():
    image = torch.randint(8, (4, 8))
    belief = torch.rand(3, 1, 8)
    found = push(belief, image)
    for run, draw in itertools.product(range(3), range(4)):
        expected = torch.zeros(8)
        for s in range(8):
            expected[image[draw, s]] += belief[run, 0, s]
        torch.testing.assert_close(found[run, draw], expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_evidence_is_the_product_over_genes(n):
    log_bits = 10 * torch.randn(4, n, 2)
    found = evidence(log_bits)
    full = found.high[:, :, None] * found.low[:, None, :]
    full = full.flatten(1).log() + found.log_scale[:, None]
    for s, bits in enumerate(state_bits(n)):
        expected = log_bits.gather(-1, bits.expand(4, n)[..., None]).sum((-2, -1))
        torch.testing.assert_close(full[:, s], expected, rtol=0, atol=1e-10)


def test_conditioning_is_bayes_rule_even_where_likelihoods_underflow():
    belief = torch.rand(16)
    belief = belief / belief.sum()
    log_bits = -800 - 5 * torch.rand(4, 2)  # the exponential of the sum is zero
    new, total = condition(belief, evidence(log_bits))
    log_like = torch.stack(
        [log_bits[range(4), bits].sum() for bits in state_bits(4).tolist()]
    )
    joint = belief.log() + log_like
    torch.testing.assert_close(total, joint.logsumexp(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(new, joint.softmax(0), rtol=0, atol=1e-13)


def test_an_impossible_measurement_has_no_probability_and_no_nan():
    log_bits = torch.tensor([[-torch.inf, 0.0], [0.0, 0.0]])
    new, total = condition(torch.tensor([0.5, 0.5, 0.0, 0.0]), evidence(log_bits))
    assert total == -torch.inf
    assert torch.equal(new, torch.zeros(4))
    never = evidence(torch.full((2, 2), -torch.inf))
    assert condition(torch.full((4,), 0.25), never)[1] == -torch.inf


def test_wrong_sizes_are_named():
    with pytest.raises(ShapeError, match=r"values.*2\^n"):
        mix(torch.zeros(6), 0.1)
    with pytest.raises(ShapeError, match="mutation"):
        mix(torch.zeros(8), torch.rand(2))
    with pytest.raises(ConfigurationError, match="num_genes.*17.*16"):
        state_bits(17)
