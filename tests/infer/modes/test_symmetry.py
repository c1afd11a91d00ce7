"""Symmetries are found, named, and never guessed from values."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions
import pytest
import torch
from torch import Tensor
from torch.distributions.constraints import interval, real

from pyro_geo import Target
from pyro_geo.density import Layout
from pyro_geo.infer import find_modes
from pyro_geo.infer.modes._climb import Climber
from pyro_geo.infer.modes._moves import in_words
from pyro_geo.infer.modes._symmetry import Symmetries, find_symmetries

dist: Any = pyro.distributions
F64 = torch.float64


def symmetries_of(target: Target) -> Symmetries:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, target.dim, generator=generator, dtype=F64)
    return find_symmetries(Climber(target, 10), points)


def of_model(model: Any, *args: Any) -> Symmetries:
    target = Target.from_model(model, *args, dtype=F64, compile=False)
    return symmetries_of(target)


def parts(y: Tensor) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("parts", 3):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    logs = share.log() + dist.Normal(mean, scale).log_prob(y[:, None])
    pyro.factor("y", logs.logsumexp(-1).sum(-1))


def network(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    out = torch.tanh(x @ w + b) @ v
    pyro.sample("y", dist.Normal(out, 0.1).to_event(1), obs=y)


def test_parts_of_a_mixture_with_a_simplex():
    found = of_model(parts, torch.tensor([0.1, -1.0, 2.0, 2.5]))
    assert in_words(found.moves) == [
        "entries 0, 1, 2 of 'mean', 'scale', 'share' exchanged"
    ]
    assert not found.exact
    q = torch.randn(8, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert len(found.images(q, 100)) == 6


def test_units_of_a_network():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 2, generator=generator), torch.randn(9, generator=generator)
    found = of_model(network, x, y)
    assert in_words(found.moves) == [
        "sign of each of entries 0, 1, 2 of 'b', 'v', columns of 'w' changed",
        "entries 0, 1, 2 of 'b', 'v', columns of 'w' exchanged",
    ]
    q = torch.randn(12, dtype=F64, generator=generator)
    images = found.images(q, 100)
    assert len(images) == 48  # 3! orders and 2^3 signs
    canonical = found.canonical(images)
    torch.testing.assert_close(canonical, canonical[:1].expand(48, -1))


def test_numbered_and_paired_sites():
    def model(y: Tensor) -> None:
        a = pyro.sample("a_1", dist.Normal(0.0, 1.0))
        b = pyro.sample("a_2", dist.Normal(0.0, 1.0))
        left = pyro.sample("left", dist.LogNormal(0.0, 1.0))
        right = pyro.sample("right", dist.LogNormal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a * left + b * right, 1.0), obs=y)

    found = of_model(model, torch.tensor(1.0))
    assert in_words(found.moves) == [
        "entries 0, 1 of 'a_1', 'a_2', 'left', 'right' exchanged"
    ]


def test_unequal_priors_are_no_symmetry():
    # the values of both modes are those of a mixture with equal priors, nearly
    def model(y: Tensor) -> None:
        scales = torch.tensor([5.0, 5.01])
        with pyro.plate("parts", 2):
            mean = pyro.sample("mean", dist.Normal(0.0, scales))
        logs = dist.Normal(mean, 0.5).log_prob(y[:, None])
        pyro.factor("y", logs.logsumexp(-1).sum(-1))

    modes = find_modes(model, torch.tensor([-2.0, -2.1, 2.0, 2.2]))
    assert len(modes) == 2
    assert modes.copies.tolist() == [0, 1]
    assert modes.symmetries == ()


def test_a_mirror_off_the_origin_and_a_period():
    target = Target.from_potential(
        lambda q: 3 * ((q - 5) ** 2 - 4).square().sum() / 16,
        1,
        dtype=F64,
        compile=False,
    )
    modes = find_modes(target)
    assert modes.copies.tolist() == [0, 0]
    assert modes.symmetries == ("'q' reflected at 5 in unconstrained space",)
    waves = Target.from_potential(
        lambda q: 4 * torch.cos(q[0]) - q[1] + q[1].exp(), 2, dtype=F64, compile=False
    )
    modes = find_modes(waves, max_rounds=2)
    assert any("moved by" in words for words in modes.symmetries)
    assert any("repeats" in note for note in modes.notes)


@pytest.mark.parametrize(
    "seed",
    [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))],
)
def test_copies_that_were_missed_are_added(seed):
    x = torch.linspace(0, 8, 30, dtype=F64)
    y = torch.sin(1.3 * x) + 0.8 * torch.sin(2.6 * x) + 0.6 * torch.sin(4.1 * x)
    between = interval(0.5, 5.0)
    layout = Layout.from_supports(
        {"a": (torch.Size([3]), real), "f": (torch.Size([3]), between)}
    )

    def potential(z: dict[str, Tensor]) -> Tensor:
        f = 0.5 + 4.5 * z["f"].sigmoid()
        mean = (z["a"][:, None] * torch.sin(f[:, None] * x)).sum(0)
        flat = torch.nn.functional.softplus
        prior = 0.5 * z["a"].square().sum() + (flat(z["f"]) + flat(-z["f"])).sum()
        return ((y - mean) / 0.2).square().sum() / 2 + prior

    target = Target.from_potential(potential, layout, dtype=F64, compile=False)
    modes = find_modes(target, seed=seed)
    assert modes.weights[:6].tolist() == pytest.approx([1 / 6] * 6, abs=0.01)
    found = modes.values()["f"][:6].sort(-1).values
    torch.testing.assert_close(
        found, torch.tensor([1.3, 2.6, 4.1], dtype=F64).expand(6, 3), atol=0.05, rtol=0
    )
    assert len(modes.values()["f"][:6].round(decimals=1).unique(dim=0)) == 6
