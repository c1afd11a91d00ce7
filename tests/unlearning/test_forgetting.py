"""One call for every fit: what it chooses, what it says, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from torch import Tensor

import pyro_geo
from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    LeverageError,
    UncertifiedError,
    UnsupportedError,
)
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.unlearning import (
    Shrink,
    delete_point,
    forget,
    memory_of,
    plan_forget,
    train_on,
)
from pyro_geo.unlearning.training import OPTIMISERS

DOUBLE = torch.float64


def model(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=DOUBLE), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def regression(n: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    return x, x.sum(-1) + torch.randn(n, generator=generator, dtype=DOUBLE)


def posterior(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    precision = x.T @ x + torch.eye(2).double() / 4
    return torch.linalg.solve(precision, x.T @ y), precision


X, Y = regression()
MEAN, PRECISION = posterior(X, Y)
LESS = posterior(X[1:], Y[1:])[0]


def draws(count: int = 600) -> PosteriorDraws:
    target = Target.from_model(model, X, Y, dtype=DOUBLE, compile=False)
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)).double()
    root = torch.linalg.cholesky(torch.linalg.inv(PRECISION))
    return PosteriorDraws(target, MemoryDraws(target, (MEAN + noise @ root.T)[None]))


def normal_guide() -> AutoMultivariateNormal:
    guide = AutoMultivariateNormal(model)
    guide(X, Y)
    covariance = torch.linalg.inv(PRECISION)
    scale = covariance.diagonal().sqrt()
    guide.loc = torch.nn.Parameter(MEAN.clone())
    guide.scale = scale
    guide.scale_tril = torch.linalg.cholesky(covariance) / scale[:, None]
    return guide


def squares(f: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (f - y).square().sum(-1)


def trained() -> tuple[torch.nn.Linear, torch.optim.Adam, tuple[Tensor, Tensor]]:
    """A module at its minimum, with an optimiser that has a memory."""
    module = torch.nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    optimizer = torch.optim.Adam(module.parameters())
    data = X, Y[:, None]
    for _ in range(3):
        optimizer.zero_grad()
        squares(module(data[0]), data[1]).mean().backward()
        optimizer.step()
    module.weight.data.copy_(torch.linalg.lstsq(*data).solution.T)
    return module, optimizer, data


def test_draws_go_down_the_ladder() -> None:
    fit = draws()
    plan = plan_forget(fit, forget=[0])
    assert plan.method == "psis"
    less = plan.run()
    assert less.method == "psis"
    moments = less.fit.summary()["mean"].to_numpy()
    sd = torch.linalg.inv(PRECISION).diagonal().sqrt()
    # means of 600 draws, at five of their standard errors with weights
    assert bool(((torch.tensor(moments) - LESS).abs() < 5 * sd / 300**0.5).all())
    # draws by site go the same way
    other = forget({"w": fit.positions[0]}, X, Y, model=model, forget=[0])
    assert other.method == "psis"


def test_a_high_leverage_starts_further_down() -> None:
    plan = plan_forget(draws(), forget=list(range(2, 30)))
    assert plan.method in ("moment_matching", "smc")
    options = {o.method: o for o in plan.options}
    assert not options["psis"].possible
    assert plan.leverage > 0.7


def test_a_guide_loses_its_sites() -> None:
    guide = normal_guide()
    less = forget(guide, X, Y, model=model, forget=[0])
    assert less.method == "delete_sites"
    # the guide holds its scales in single precision
    assert float((less.result.loc - LESS).abs().max()) < 1e-4
    assert torch.equal(guide.loc.detach(), MEAN)


def test_points_are_moved_by_newton() -> None:
    guide = AutoDelta(model)
    guide(X, Y)
    guide.w = MEAN
    less = forget(guide, X, Y, model=model, forget=[0])
    assert less.method == "newton"
    torch.testing.assert_close(less.fit.w.detach(), LESS)
    named = forget(guide, x=X, y=Y, model=model, forget=[0])
    torch.testing.assert_close(named.fit.w.detach(), LESS)


@pytest.mark.parametrize("treatment", [None, Shrink(0.5)])
def test_a_memory_is_treated_with_its_module(treatment: Shrink | None) -> None:
    module, optimizer, data = trained()
    before = memory_of(optimizer).dense()
    less = forget(
        module,
        *data,
        forget=[0],
        loss=squares,
        optimizer=optimizer,
        treatment=treatment,
    )
    assert less.method == "newton"
    expected = torch.linalg.lstsq(data[0][1:], data[1][1:]).solution.T
    torch.testing.assert_close(less.fit.weight.detach(), expected)
    factor = 0.0 if treatment is None else 0.5
    torch.testing.assert_close(memory_of(less.optimizer).dense(), factor * before)
    torch.testing.assert_close(memory_of(optimizer).dense(), before)
    # the copy belongs to the new module
    assert less.optimizer.param_groups[0]["params"][0] is less.fit.weight


def test_a_network_in_training_is_trained_on() -> None:
    module, optimizer, data = trained()
    module.weight.data.add_(1.0)
    less = forget(
        module,
        *data,
        forget=[0],
        loss=squares,
        optimizer=optimizer,
        options={"num_epochs": 2},
    )
    assert less.method == "finetune"
    assert not torch.equal(less.fit.weight, module.weight)
    assert less.treatment is not None


def test_a_certificate_comes_with_its_text(tmp_path: Path) -> None:
    module, optimizer, data = trained()
    less = forget(
        module,
        *data,
        forget=[0],
        loss=squares,
        optimizer=optimizer,
        certify=(1.0, 1e-5),
        options={"num_epochs": 1},
    )
    assert less.method == "certified_finetune"
    assert less.certificate is not None
    assert less.certificate.epsilon == 1.0
    assert "koloskova2025certified" in pyro_geo.citation(less)
    page = less.report(tmp_path / "page.html").read_text()
    assert "certified deletion" in page
    assert "released earlier" in page
    json.dumps(less.to_dict())
    guide = AutoDelta(model)
    guide(X, Y)
    guide.w = MEAN
    convex = forget(
        guide, X, Y, model=model, forget=[0], certify=(1.0, 1e-5), convex=True
    )
    assert convex.method == "certified_newton"
    assert float((convex.fit.w.detach() - LESS).abs().max()) < 1e-3


@pytest.mark.parametrize("name", OPTIMISERS)
def test_nothing_of_an_old_memory_survives_a_certificate(name: str) -> None:
    if name in ("SOAP", "Shampoo"):
        pytest.importorskip("pytorch_optimizer")
    memories = []
    for epochs in (0, 2):  # an optimiser without a past, and one with all data in it
        module = torch.nn.Linear(2, 1, dtype=DOUBLE)
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
        optimizer = OPTIMISERS[name](module.parameters())
        data = X, Y[:, None]
        train_on(module, optimizer, data, squares, num_epochs=epochs)
        torch.nn.init.ones_(module.weight)
        torch.nn.init.ones_(module.bias)
        less = forget(
            module,
            *data,
            forget=[0, 1],
            loss=squares,
            optimizer=optimizer,
            certify=(1.0, 1e-5),
            options={"num_epochs": 2, "batch_size": 8},
        )
        assert type(less.optimizer) is type(optimizer)
        memories.append(memory_of(less.optimizer).dense())
        trained = forget(
            module,
            *data,
            forget=[0, 1],
            loss=squares,
            optimizer=optimizer,
            options={"num_epochs": 1},
        )
        assert trained.method == "finetune"
    assert torch.equal(*memories)


def test_exact_posteriors_stay_exact() -> None:
    posterior = dist.Beta(torch.tensor(4.0), torch.tensor(3.0))
    less = forget(posterior, forget=torch.tensor([1.0, 0.0, 1.0]))
    assert less.method == "conjugate_delete"
    assert float(less.fit.concentration1) == 2.0
    assert float(less.fit.concentration0) == 2.0
    with pytest.raises(LeverageError):
        forget(posterior, forget=torch.ones(9))


def test_a_process_loses_its_rows() -> None:
    gpytorch = pytest.importorskip("gpytorch")

    class Process(gpytorch.models.ExactGP):
        def __init__(self, x: Tensor, y: Tensor, noise: object) -> None:
            super().__init__(x, y, noise)
            self.mean = gpytorch.means.ZeroMean()
            self.kernel = gpytorch.kernels.RBFKernel()

        def forward(self, x: Tensor) -> object:
            return gpytorch.distributions.MultivariateNormal(
                self.mean(x), self.kernel(x)
            )

    noise = gpytorch.likelihoods.GaussianLikelihood().double()
    process = Process(X[:8, :1], Y[:8], noise).double()
    less = forget(process, forget=[0])
    assert less.method == "gp_delete"
    assert len(less.fit.train_targets) == 7


def test_a_plan_says_why_and_what_it_costs() -> None:
    fit = draws(500)
    before = fit.positions.clone()
    plan = plan_forget(fit, forget=[0])
    text = plan.explain()
    for option in plan.options:
        assert option.method in text
        assert option.gradients > 0
        assert option.seconds > 0
    assert "predicted khat" in text
    assert list(plan.table().index) == [o.method for o in plan.options]
    json.dumps(plan.to_dict())
    assert torch.equal(fit.positions, before)
    costs = {o.method: o.gradients for o in plan.options}
    assert costs["psis"] < costs["moment_matching"] < costs["smc"]


def test_a_method_can_be_asked_for() -> None:
    module, _, data = trained()
    less = forget(module, *data, forget=[0], loss=squares, method="finetune")
    assert less.method == "finetune"
    assert less.plan.reason == "asked for"
    with pytest.raises(ConfigurationError, match="method"):
        forget(module, *data, forget=[0], loss=squares, method="magic")


def test_what_cannot_be_done_is_named() -> None:
    module, _, data = trained()
    guide = normal_guide()
    with pytest.raises(UncertifiedError, match="AutoMultivariateNormal"):
        forget(guide, X, Y, model=model, forget=[0], certify=(1.0, 1e-5))
    with pytest.raises(UncertifiedError, match="PosteriorDraws"):
        forget(draws(), forget=[0], certify=(1.0, 1e-5))
    delta = AutoDelta(model)
    delta(X, Y)
    with pytest.raises(UncertifiedError, match="convex"):
        forget(delta, X, Y, model=model, forget=[0], certify=(1.0, 1e-5))
    with pytest.raises(UnsupportedError, match="object"):
        forget(object(), forget=[0])
    with pytest.raises(ConfigurationError, match="model"):
        forget(guide, X, Y, forget=[0])
    with pytest.raises(UnsupportedError, match="left to you"):
        forget(module, *data, forget=[0], loss=squares, method="refit")
    for bad in ([], [0, 0], [99], range(30)):
        with pytest.raises(ForgetSetError):
            forget(draws(), forget=list(bad))


def test_data_that_were_never_fitted_are_noticed() -> None:
    guide = normal_guide()
    with pytest.raises(LeverageError):
        forget(guide, 9 * X, Y, model=model, forget=list(range(20)))


def columns(f: Tensor, y: Tensor) -> Tensor:
    """A loss of two values for each row."""
    return 0.5 * (f - y).square()


def test_a_row_of_which_a_part_goes_is_not_kept_in_training() -> None:
    module = torch.nn.Linear(2, 2, dtype=DOUBLE)
    optimizer = torch.optim.Adam(module.parameters())
    data = X, torch.stack([Y, -Y], 1)
    mask = torch.zeros(len(X), 2, dtype=torch.bool)
    mask[3, 1] = True
    options = {"forget": {"loss": mask}, "loss": columns, "optimizer": optimizer}
    with pytest.raises(ForgetSetError, match=r"\[3\]"):
        forget(module, *data, **options)
    with pytest.raises(ForgetSetError, match=r"\[3\]"):
        forget(module, *data, certify=(1.0, 1e-5), **options)
    mask[3, 0] = True
    assert forget(module, *data, **options).method == "finetune"


def test_keywords_are_used_or_refused() -> None:
    module, optimizer, data = trained()
    named: Any = {"x": data[0], "y": data[1]}
    with pytest.raises(ConfigurationError, match="by position"):
        forget(module, **named, forget=[0], loss=squares)
    with pytest.raises(ConfigurationError, match="by position"):
        forget(module, data[0], y=data[1], forget=[0], loss=squares)
    with pytest.raises(ConfigurationError, match="targets last"):
        delete_point(module, None, named, [0], loss=squares)
    guide = AutoDelta(model)
    guide(X, Y)
    guide.w = MEAN
    mixed = forget(guide, X, y=Y, model=model, forget=[0])
    torch.testing.assert_close(mixed.fit.w.detach(), LESS)
    networks = {"loss": squares, "prior_precision": 1.0, "optimizer": object()}
    networks |= {"treatment": Shrink(0.5)}
    for name, value in networks.items():
        for fit in (guide, normal_guide()):
            with pytest.raises(ConfigurationError, match=name):
                forget(fit, X, Y, model=model, forget=[0], **{name: value})
        with pytest.raises(ConfigurationError, match=name):
            forget(draws(50), forget=[0], **{name: value})
    options = {"forget": [0], "loss": squares, "treatment": Shrink(0.5)}
    with pytest.raises(ConfigurationError, match="treatment"):
        forget(module, *data, **options)
    with pytest.raises(ConfigurationError, match="treatment"):
        forget(module, *data, certify=(1.0, 1e-5), optimizer=optimizer, **options)


def test_what_is_known_of_conjugate_data_is_used() -> None:
    rate = dist.Gamma(torch.tensor(9.0), torch.tensor(8.0))
    less = forget(rate, forget=torch.tensor([3.0]), exposure=torch.tensor([2.5]))
    assert float(less.fit.concentration) == 6.0
    assert float(less.fit.rate) == 5.5
    mean = dist.Normal(torch.tensor(0.0), torch.tensor(0.5))
    less = forget(mean, forget=torch.tensor([1.0]), noise=1.0)
    assert float(less.fit.scale) == pytest.approx(3**-0.5)
    with pytest.raises(ConfigurationError, match="method"):
        forget(rate, forget=torch.tensor([3.0]), method="psis")
    with pytest.raises(ConfigurationError, match="args"):
        forget(rate, torch.tensor([3.0]), forget=torch.tensor([3.0]))


@pytest.mark.parametrize("method", ["newton", "finetune"])
def test_a_certificate_is_given_or_refused(method: str) -> None:
    module, _, data = trained()
    options = {"forget": [0], "loss": squares}
    with pytest.raises(UncertifiedError, match=method):
        forget(module, *data, certify=(1.0, 1e-5), method=method, **options)
    with pytest.raises(ConfigurationError, match="certify"):
        forget(module, *data, method=f"certified_{method}", **options)


@pytest.mark.parametrize("certify", [None, (1e3, 0.5)])
def test_training_on_knows_the_prior(certify: tuple[float, float] | None) -> None:
    module, _, data = trained()
    module.weight.data.add_(1.0)
    less = forget(
        module,
        *data,
        forget=[0],
        loss=squares,
        optimizer=torch.optim.Adagrad(module.parameters(), lr=1.0),
        prior_precision=40.0,
        certify=certify,
        method="finetune" if certify is None else None,
        options={"num_epochs": 80, "batch_size": len(X)},
    )
    x, y = X[1:], Y[1:]
    expected = torch.linalg.solve(x.T @ x + 40 * torch.eye(2).double(), x.T @ y)
    torch.testing.assert_close(less.fit.weight.detach()[0], expected)


def test_noisy_steps_know_the_prior() -> None:
    module, _, data = trained()
    found = []
    for precision in (0.0, 40.0):
        options = {"num_epochs": 0, "num_noisy_steps": 1, "learning_rate": 0.1}
        # long gradients and a ball so large that neither is cut
        options |= {"gradient_bound": 1e3, "radius": 1e3}
        less = forget(
            module,
            *data,
            forget=[0],
            loss=squares,
            prior_precision=precision,
            certify=(1.0, 1e-5),
            options=options,
        )
        found.append(less.fit.weight.detach())
    # the noise is the same, so that what is left is one step along the prior
    expected = -0.1 * 40.0 / 29 * module.weight.detach()
    torch.testing.assert_close(found[1] - found[0], expected)
