"""Certified deletion: what is promised, what is refused, and lies that are noticed."""

from __future__ import annotations

import copy
import functools
import json
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    UncertifiedError,
    UnsupportedOptimizerError,
)
from pyro_geo.testing.deletion import understated_noise, with_old_memory
from pyro_geo.unlearning import (
    DeletionCertificate,
    certified_finetune,
    certified_newton,
    check_certificate,
)
from pyro_geo.unlearning.noise import gaussian_separation, noisy_steps_separation

CLAIM: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-2}
RUNS = 50


def squares(f: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (f - y).square().sum(-1)


DATA = torch.linspace(-1, 1, 6)[:, None], torch.linspace(1, -1, 6)[:, None]


def network(value: float = 0.0) -> torch.nn.Linear:
    line = torch.nn.Linear(1, 1)
    with torch.no_grad():
        for parameter in line.parameters():
            parameter.fill_(value)
    return line


ZERO = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}


def finetune(module: torch.nn.Module, seed: int = 0, **options: Any):
    options = {"num_epochs": 0, "centre": ZERO, "radius": 1.0, **CLAIM} | options
    options.setdefault("num_noisy_steps", 2)
    return certified_finetune(
        module, None, DATA, [0], loss=squares, seed=seed, **options
    )


# -- networks -------------------------------------------------------------------------


def position(module: torch.nn.Module) -> float:
    """The direction in which the two starts differ."""
    return float(sum(p.detach().sum() for p in module.parameters()))


@functools.cache
def honest_runs() -> tuple[DeletionCertificate, Tensor, Tensor]:
    """Scores after fits at opposite ends of the ball, the worst case."""
    scores = [
        torch.tensor(
            [position(finetune(network(side), s + at).fit) for s in range(RUNS)]
        )
        for side, at in ((5.0, 0), (-5.0, RUNS))
    ]
    return finetune(network(5.0)).certificate, scores[0], scores[1]


def test_a_true_certificate_is_not_rejected() -> None:
    certificate, deleted, reference = honest_runs()
    assert not check_certificate(certificate, deleted, reference).rejected


def test_the_noise_is_what_the_certificate_says() -> None:
    certificate, deleted, reference = honest_runs()
    settings = certificate.settings
    # without gradients the sum of both coordinates has this variance
    sd = math.sqrt(2 * settings["noisy steps"]) * settings["noise of a step"]
    moved = settings["learning rate"] * settings["gradient bound"] * math.sqrt(2)
    gap = 2 * math.sqrt(2) + 2 * settings["noisy steps"] * moved
    for scores in (deleted, reference):
        # the variance of n normal numbers, at four of its standard errors
        assert float(scores.std()) / sd == pytest.approx(1, abs=4 / math.sqrt(2 * RUNS))
    assert abs(float(deleted.mean() - reference.mean())) < gap + 4 * sd / RUNS**0.5


def test_understated_noise_is_noticed() -> None:
    options = {"loss": squares, "num_epochs": 0, "centre": ZERO, "radius": 1.0, **CLAIM}
    scores = []
    for side in (0.7, -0.7):
        runs = [
            understated_noise(
                network(side), None, DATA, [0], seed=s, num_noisy_steps=1, **options
            )
            for s in range(44)
        ]
        scores.append(torch.tensor([position(run.fit) for run in runs]))
    certificate = DeletionCertificate(**_claim(runs[0].certificate))
    test = check_certificate(certificate, scores[0], scores[1], level=0.01)
    assert test.rejected, test


def _claim(certificate: DeletionCertificate) -> dict[str, Any]:
    names = ("epsilon", "delta", "separation", "mechanism", "covers", "assumptions")
    return {name: getattr(certificate, name) for name in names}


def trained(seed: int, scale: float) -> tuple[torch.nn.Linear, torch.optim.Adam]:
    """A network whose optimiser has met data of a size, deleted data among them."""
    generator = torch.Generator().manual_seed(seed)
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05, betas=(0.9, 0.99))
    for _ in range(5):
        noise = 0.1 * torch.randn(6, 1, generator=generator)
        optimizer.zero_grad()
        squares(module(scale * DATA[0]), DATA[1] + noise).mean().backward()
        optimizer.step()
    return module, optimizer


def memory(optimizer: torch.optim.Optimizer) -> float:
    buffers = [state["exp_avg_sq"] for state in optimizer.state.values()]
    return float(torch.cat([b.reshape(-1) for b in buffers]).log().sum())


def test_a_memory_that_was_left_is_noticed() -> None:
    honest, left = [], []
    for scale in (9.0, 1.0):
        runs = []
        for seed in range(44):
            module, optimizer = trained(seed, scale)
            result = certified_finetune(
                module,
                optimizer,
                DATA,
                [0],
                loss=squares,
                num_noisy_steps=1,
                num_epochs=1,
                seed=seed + (100 if scale == 1.0 else 0),
                **CLAIM,
            )
            runs.append((result, optimizer))
        honest.append(torch.tensor([memory(r.optimizer) for r, _ in runs]))
        twins = [with_old_memory(*run) for run in runs]
        left.append(torch.tensor([memory(r.optimizer) for r in twins]))
    certificate = runs[0][0].certificate
    assert "optimiser's memory" in certificate.covers
    assert not check_certificate(certificate, *honest).rejected
    assert check_certificate(certificate, *left, level=0.01).rejected


def test_nothing_of_the_old_fit_is_left_but_the_projection() -> None:
    # two fits in the same direction have the same projection, and the same outcome
    one, other = (finetune(network(v), seed=3, num_epochs=2) for v in (50.0, 900.0))
    for a, b in zip(one.fit.parameters(), other.fit.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("blocks", [None, [["weight"], ["bias"]]])
def test_settings_give_the_separation(blocks: Any) -> None:
    result = finetune(network(2.0), blocks=blocks, learning_rate=0.1, decay=0.5)
    settings = result.certificate.settings
    count = settings["blocks"]
    alone = noisy_steps_separation(
        settings["noise of a step"],
        settings["noisy steps"],
        radius=settings["radius"] / math.sqrt(count),
        step_bound=0.1 / math.sqrt(count),
        contraction=0.95,
    )
    assert alone * math.sqrt(count) == pytest.approx(result.certificate.separation)
    allowed = gaussian_separation(CLAIM["epsilon"], CLAIM["delta"])
    assert result.certificate.separation <= allowed


@pytest.mark.parametrize("noise", [None, 0.3])
def test_the_ball_follows_from_the_noise(noise: float | None) -> None:
    centre = {"weight": torch.full((1, 1), 2.0), "bias": torch.full((1,), 2.0)}
    result = finetune(network(1.0), centre=centre, radius=None, noise=noise)
    settings = result.certificate.settings
    total = settings["noise of a step"] * math.sqrt(settings["noisy steps"])
    assert total == pytest.approx(0.2 if noise is None else noise)
    allowed = gaussian_separation(CLAIM["epsilon"], CLAIM["delta"])
    assert result.certificate.separation == pytest.approx(allowed)


def test_arguments_and_global_randomness_are_left_alone() -> None:
    module, optimizer = trained(0, 1.0)
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    state = torch.get_rng_state()
    result = certified_finetune(
        module, optimizer, DATA, [1], loss=squares, num_epochs=1, **CLAIM
    )
    assert torch.equal(state, torch.get_rng_state())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[0][name])
    assert str(optimizer.state_dict()) == str(before[1])
    assert isinstance(result.optimizer, torch.optim.Adam)
    assert result.optimizer.defaults["betas"] == (0.9, 0.99)
    assert {id(p) for p in result.optimizer.state} == {
        id(p) for p in result.fit.parameters()
    }
    json.dumps(result.to_dict())


def test_training_of_ones_own_is_given_retained_data_alone() -> None:
    seen = []

    def train(module: Any, optimizer: Any, data: Any, generator: Any) -> None:
        seen.append(data[0].shape)
        assert optimizer.state == {}

    certified_finetune(
        network(),
        lambda params: torch.optim.SGD(params, lr=0.1),
        DATA,
        [0, 2],
        loss=squares,
        train=train,
        **CLAIM,
    )
    assert seen == [(4, 1)]


class _Odd(torch.optim.SGD):
    def __init__(self, params: Any, needed: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)


def test_what_cannot_be_certified_is_refused() -> None:
    norm = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    with pytest.raises(UncertifiedError, match="buffers"):
        finetune(norm)
    with pytest.raises(UncertifiedError, match="noise"):
        finetune(network(), radius=None, noise=1e-3, learning_rate=1.0)
    module = network()
    with pytest.raises(UnsupportedOptimizerError, match="made anew"):
        certified_finetune(
            module,
            _Odd(module.parameters(), 1),
            DATA,
            [0],
            loss=squares,
            num_epochs=0,
            **CLAIM,
        )
    with pytest.raises(ConfigurationError, match="blocks"):
        finetune(network(), blocks=[["weight"]])
    with pytest.raises(ConfigurationError, match="decay"):
        finetune(network(), decay=0.1)
    with pytest.raises(ConfigurationError, match="epsilon"):
        finetune(network(), epsilon=0.0)
    with pytest.raises(ForgetSetError):
        certified_finetune(network(), None, DATA, [], loss=squares, **CLAIM)


# -- convex fits ----------------------------------------------------------------------


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def trial(n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    noise = torch.rand(n, generator=generator, dtype=torch.float64)
    return x, (noise < (x[:, 0] - x[:, 1]).sigmoid()).double()


def mode(x: Tensor, y: Tensor) -> Tensor:
    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(30):
        p = (x @ w).sigmoid()
        hessian = (x * (p * (1 - p))[:, None]).T @ x + torch.eye(3).double() / 4
        w = w - torch.linalg.solve(hessian, x.T @ (p - y) + w / 4)
    return w


def test_the_certified_fit_is_the_mode_and_its_noise() -> None:
    x, y = trial()
    result = certified_newton(
        logistic,
        {"w": mode(x, y)},
        (x, y),
        [0, 5],
        convex=True,
        tolerance=1e-4,
        **CLAIM,
    )
    keep = torch.ones(len(x), dtype=torch.bool)
    keep[[0, 5]] = False
    expected = mode(x[keep], y[keep])
    settings = result.certificate.settings
    assert settings["strong convexity"] == pytest.approx(0.25)
    allowed = gaussian_separation(CLAIM["epsilon"], CLAIM["delta"])
    # two fits within gradient / convexity of the mode each, and noise for both
    assert settings["noise"] == pytest.approx(2 * 1e-4 / 0.25 / allowed)
    bound = 1e-4 / 0.25 + 6 * settings["noise"] * 3**0.5
    assert float((result.fit["w"] - expected).norm()) < bound


def test_retraining_and_deletion_share_their_outcome() -> None:
    # the noise has one seed: what is left is the distance that the noise must hide
    x, y = trial()
    keep = torch.ones(len(x), dtype=torch.bool)
    keep[[3]] = False
    options = {"convex": True, "tolerance": 1e-4, **CLAIM}
    one = certified_newton(logistic, {"w": mode(x, y)}, (x, y), [3], **options)
    other = certified_newton(
        logistic, {"w": mode(x[keep], y[keep])}, (x, y), [3], **options
    )
    gap = float((one.fit["w"] - other.fit["w"]).norm())
    assert gap <= 2 * 1e-4 / 0.25


def test_certificates_are_given_under_their_assumptions_only() -> None:
    x, y = trial()
    start = {"w": mode(x, y)}
    with pytest.raises(UncertifiedError, match="convex"):
        certified_newton(logistic, start, (x, y), [0], convex=False, **CLAIM)
    with pytest.raises(UncertifiedError, match="Refit"):
        certified_newton(
            logistic,
            start,
            (x, y),
            [0],
            convex=True,
            max_steps=1,
            tolerance=1e-9,
            **CLAIM,
        )

    def flat(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Uniform(-9 * torch.ones(3), 9.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    with pytest.raises(UncertifiedError, match="prior"):
        certified_newton(flat, start, (x, y), [0], convex=True, **CLAIM)

    def bent(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.StudentT(1.0, x @ w, 0.05), obs=y)

    with pytest.raises(UncertifiedError, match="likelihood"):
        certified_newton(bent, {"w": start["w"]}, (x, y), [0], convex=True, **CLAIM)
    with pytest.raises(UncertifiedError):  # no prior
        certified_newton(
            torch.nn.Linear(1, 1), None, DATA, [0], loss=squares, convex=True, **CLAIM
        )


# -- certificates ---------------------------------------------------------------------


def test_a_certificate_says_what_it_assumes() -> None:
    certificate = finetune(network()).certificate
    text = certificate.text
    assert text.startswith("(1, 0.01)-certified deletion.")
    for sentence in certificate.assumptions:
        assert sentence in text
    for word in ("secret", "released earlier", "chosen without the forgotten data"):
        assert word in text
    assert json.loads(json.dumps(certificate.to_dict()))["text"] == text
    assert 0.5 < certificate.attack_auc < 1


def test_a_certificate_cannot_claim_more_than_its_separation() -> None:
    with pytest.raises(ConfigurationError, match="separation"):
        DeletionCertificate(1.0, 1e-5, 1.0, "none", (), ())


def test_true_certificates_are_rejected_at_most_as_often_as_said() -> None:
    separation = gaussian_separation(CLAIM["epsilon"], CLAIM["delta"])
    certificate = DeletionCertificate(1.0, 1e-2, separation, "noise", (), ())
    generator = torch.Generator().manual_seed(0)
    rejected = 0
    for _ in range(40):
        noise = torch.randn(2, 100, generator=generator, dtype=torch.float64)
        rejected += check_certificate(
            certificate, noise[0] + separation, noise[1], level=0.05
        ).rejected
    # 40 tests of level 0.05: more than 9 have a probability of 3e-5
    assert rejected <= 9
