"""Seeds and private randomness."""

import random

import numpy as np
import pyro
import pytest
import torch

from pyro_geo.ops.random import private_randomness, seed_torch


def draws():
    numpy = np.random.rand(2)  # noqa: NPY002  what Pyro seeds
    return torch.rand(3).tolist(), random.random(), numpy.tolist()


@pytest.mark.parametrize("accelerator", [None, "cuda"])
@pytest.mark.parametrize("seed", [0, 7, 2**63, -3])
def test_a_seed_is_that_of_torch(seed, accelerator, monkeypatch):
    found = accelerator and torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    seed_torch(seed)
    ours = torch.rand(3)
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(3), ours)


def test_an_accelerator_is_seeded_too(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "manual_seed", seen.append)
    device = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: device)
    seed_torch(5)
    assert seen == [5]


def test_private_draws_are_those_of_pyros_seed_and_disturb_nothing():
    with private_randomness(3):
        inside = draws()
    after = draws()
    pyro.set_rng_seed(0)
    assert after == draws()
    pyro.set_rng_seed(3)
    assert inside == draws()
