"""Memories of optimisers are the statistics of the gradients that they were given."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import pytorch_optimizer
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]

from pyro_geo.errors import (
    ConfigurationError,
    NonFiniteStateError,
    UnsupportedOptimizerError,
)
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.optim import SPD, EigenONS
from pyro_geo.unlearning import memory_of
from tests.cases import numbers

SOAP = {"precondition_1d": True, "betas": (0.9, 0.9), "lr": 0.01}
SHAMPOO = {"matrix_eps": 1e-3, "preconditioning_compute_steps": 1, "lr": 0.01}


def feed(make, steps: int = 4, **options):
    """Give an optimiser gradients of a matrix and of a vector."""
    params = [torch.nn.Parameter(torch.zeros(3, 4).double())]
    params.append(torch.nn.Parameter(torch.zeros(2).double()))
    optimizer = make(params, **options)
    grads = []
    for i in range(steps):
        given = [numbers(*p.shape, seed=7 * i + k) for k, p in enumerate(params)]
        for p, g in zip(params, given, strict=True):
            p.grad = g.clone()
        grads.append(given)
        optimizer.step()
    return optimizer, grads


def weights(beta: float, steps: int) -> list[float]:
    return [(1 - beta) * beta ** (steps - 1 - i) for i in range(steps)]


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_remembers_an_average_of_squares(make):
    optimizer, grads = feed(make, betas=(0.9, 0.8))
    memory = memory_of(optimizer, ["weight", "bias"])
    assert list(memory.parts) == ["weight", "bias"]
    for k, part in enumerate(memory.parts.values()):
        expected: Any = sum(
            w * g[k].square() for w, g in zip(weights(0.8, 4), grads, strict=True)
        )
        torch.testing.assert_close(part.dense().diagonal(), expected.flatten())


def test_adagrad_and_rmsprop_remember_squares_too():
    optimizer, grads = feed(torch.optim.Adagrad, initial_accumulator_value=0.5)
    expected: Any = 0.5 + sum(g[0].square() for g in grads)
    found = memory_of(optimizer).parts["0"].dense().diagonal()
    torch.testing.assert_close(found, expected.flatten())
    optimizer, grads = feed(torch.optim.RMSprop, alpha=0.7)
    parts = zip(weights(0.7, 4), grads, strict=True)
    expected = sum(w * g[0].square() for w, g in parts)
    found = memory_of(optimizer).parts["0"].dense().diagonal()
    torch.testing.assert_close(found, expected.flatten())


def factors(grads, scale, floor=0.0):
    """Left and right statistics of the matrix, and that of the vector."""
    pairs = list(zip(scale, [g[0] for g in grads], strict=True))
    left = sum(w * g @ g.mT for w, g in pairs) + floor * torch.eye(3).double()
    right = sum(w * g.mT @ g for w, g in pairs) + floor * torch.eye(4).double()
    vector = sum(w * torch.outer(g[1], g[1]) for w, g in zip(scale, grads, strict=True))
    return left, right, vector + floor * torch.eye(2).double()


def test_shampoo_remembers_sums_of_outer_products_by_axis():
    optimizer, grads = feed(pytorch_optimizer.Shampoo, **SHAMPOO)
    left, right, vector = factors(grads, [1.0] * 4, 1e-3)
    memory = memory_of(optimizer)
    expected = torch.kron(left, right) / right.trace()
    torch.testing.assert_close(memory.parts["0"].dense(), expected)
    torch.testing.assert_close(memory.parts["1"].dense(), vector)


def test_soap_remembers_averages_of_outer_products_by_axis():
    optimizer, grads = feed(pytorch_optimizer.SOAP, shampoo_beta=0.7, **SOAP)
    left, right, vector = factors(grads, weights(0.7, 4))
    memory = memory_of(optimizer)
    torch.testing.assert_close(
        memory.parts["0"].dense(), torch.kron(left, right) / right.trace()
    )
    torch.testing.assert_close(memory.parts["1"].dense(), vector)


def test_soap_without_factors_has_the_identity_or_adam():
    optimizer, grads = feed(
        pytorch_optimizer.SOAP, max_precondition_dim=3, shampoo_beta=0.7
    )
    left, _, _ = factors(grads, weights(0.7, 4))
    memory = memory_of(optimizer)
    expected = torch.kron(left, torch.eye(4).double() / 4)
    torch.testing.assert_close(memory.parts["0"].dense(), expected)
    assert isinstance(memory.parts["1"], Diagonal)


def test_ons_has_one_block_of_all_parameters():
    optimizer, grads = feed(EigenONS, rank=14)
    flat = torch.stack([torch.cat([x.flatten() for x in g]) for g in grads])
    memory = memory_of(optimizer)
    expected = torch.eye(14).double() + flat.mT @ flat
    torch.testing.assert_close(memory.dense(), expected)


@pytest.mark.parametrize("kind", ["Adam", "Adagrad", "SOAP", "Shampoo", "EigenONS"])
def test_before_the_first_step_it_is_what_the_optimiser_starts_with(kind):
    make = {**vars(torch.optim), **vars(pytorch_optimizer), "EigenONS": EigenONS}[kind]
    memory = memory_of(make([torch.nn.Parameter(torch.zeros(2, 3))]))
    assert memory.dim == 6
    assert bool(memory.dense().isfinite().all())


def test_wrappers_are_looked_through():
    def model():
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    guide = AutoDiagonalNormal(model)
    adam = Adam({"lr": 0.1})
    svi = SVI(model, guide, adam, Trace_ELBO())
    svi.step()
    assert set(memory_of(adam).parts) == {
        "AutoDiagonalNormal.loc",
        "AutoDiagonalNormal.scale",
    }
    param = torch.nn.Parameter(torch.zeros(2))
    wrapped = SPD([param], torch.optim.Adam, lr=0.1)
    param.grad = torch.ones(2)
    wrapped.step()
    plain = torch.optim.lr_scheduler.StepLR(wrapped.base, 1)
    for one in (wrapped, plain):
        found = memory_of(one).dense().diagonal()
        torch.testing.assert_close(found, torch.full((2,), 1e-3).double())


def test_names_come_from_the_optimiser_or_the_call():
    net = torch.nn.Linear(2, 1)
    assert set(memory_of(torch.optim.Adam(net.named_parameters())).parts) == {
        "weight",
        "bias",
    }
    with pytest.raises(ConfigurationError, match="names"):
        memory_of(torch.optim.Adam(net.parameters()), ["weight"])


@pytest.mark.parametrize(
    ("make", "options", "key"),
    [
        (torch.optim.Adam, {}, "exp_avg_sq"),
        (pytorch_optimizer.Shampoo, SHAMPOO, "inv_pre_cond_1"),
        (pytorch_optimizer.SOAP, SOAP, "GG"),
    ],
)
def test_a_buffer_that_is_not_finite_is_named(make, options, key):
    optimizer, _ = feed(make, **options)
    buffer = optimizer.state[optimizer.param_groups[0]["params"][0]][key]
    label = key
    if isinstance(buffer, list):
        buffer, label = buffer[1], f"{key}[1]"
    buffer[0, 0] = float("inf")
    with pytest.raises(
        NonFiniteStateError, match=f"buffer {label}".replace("[", r"\[")
    ):
        memory_of(optimizer, ["weight", "bias"])


def test_optimisers_without_a_memory_are_refused():
    with pytest.raises(UnsupportedOptimizerError, match="SGD"):
        memory_of(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
