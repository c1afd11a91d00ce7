"""Samplers and curvature on both devices."""

import itertools
import os
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from _gpu_case import Case, Result, Work, numbers
from torch import Tensor
from torch.nn.functional import softplus

from pyro_geo import Target
from pyro_geo.density import Rung
from pyro_geo.geometry.curvature import GaussNewton
from pyro_geo.infer import DIMS, HMC, MCMC, GibbsModel, GibbsPosterior


def logistic(x: Tensor, y: Tensor) -> None:
    """Logistic regression with a standard normal prior."""
    prior = dist.Normal(x.new_zeros(x.shape[-1]), 1.0).to_event(1)
    w = pyro.sample("w", prior)
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def table(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Inputs, and outcomes that follow a random plane."""
    x = numbers(rows, columns)
    w = numbers(columns, seed=1) / columns**0.5
    y = (x @ w + 0.5 * numbers(rows, seed=2) > 0).float()
    return x, y


def gradient(rows: int, columns: int, chains: int, rung: Rung) -> Case:
    """Density and gradient of many chains, on all threads of the processor."""
    data = table(rows, columns)
    q = 0.1 * numbers(chains, columns, seed=3)

    def make(device: torch.device) -> Work:
        here = [t.to(device) for t in data]
        target = Target.from_model(logistic, *here, compile=False).with_rung(rung)
        at = q.to(device)

        def work() -> Result:
            value, slope = target.value_and_grad(at)
            if target.notes:  # it runs on a lower rung
                raise RuntimeError(target.notes[0])
            return {"value": value, "gradient": slope}

        return work

    compiles = rung == "compiled"
    return Case(make, 1e-4, os.cpu_count() or 1, compiles)


def transitions(rows: int, columns: int, chains: int, draws: int) -> Case:
    """A few transitions of HMC, their step size and length given."""
    data = table(rows, columns)
    size = 0.5 * rows**-0.5

    def make(device: torch.device) -> Work:
        here = [t.to(device) for t in data]
        target = Target.from_model(logistic, *here, compile=False)
        kernel = HMC(
            target, metric="diagonal", step_size=size, trajectory_length=5 * size
        )
        start = {"w": torch.zeros(columns)}
        run = MCMC(
            kernel,
            draws,
            0,
            chains,
            seed=1,
            initial_params=start,
            compile=False,
            progress_bar=False,
        )
        return lambda: {"w": run.run().positions}

    return Case(make, 1e-3)


def whole_run(rows: int, columns: int, chains: int, warmup: int, draws: int) -> Case:
    """A whole run of HMC with its warm-up; posterior means by the spread of chains."""
    data = table(rows, columns)

    def make(device: torch.device) -> Work:
        here = [t.to(device) for t in data]

        def work() -> Result:
            run = MCMC(
                HMC(logistic),
                draws,
                warmup,
                chains,
                seed=1,
                progress_bar=False,
                compile=False,
            ).run(*here)
            means = run.get_samples(group_by_chain=True)["w"].double().mean(1)
            return {"mean": means.mean(0), "error": means.std(0) / chains**0.5}

        return work

    return Case(make, None)


def minima(rows: int, hidden: int, samples: int) -> Case:
    """Minima of a network of two layers by DIMS."""
    x = numbers(rows, 4)
    y = (2 * x[:, 0]).sin() + 0.1 * numbers(rows, seed=2)

    def network(x: Tensor, y: Tensor) -> None:
        def weights(name: str, *shape: int) -> Tensor:
            return pyro.sample(name, dist.Normal(x.new_zeros(shape), 1.0).to_event(2))

        h = (x @ weights("w1", 4, hidden)).tanh()
        mean = (h @ weights("w2", hidden, 1)).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.2), obs=y)

    def make(device: torch.device) -> Work:
        here = x.to(device), y.to(device)
        options: dict[str, Any] = {
            "anchor_steps": 300,
            "explore_time": 1.0,
            "settle_time": 5.0,
        }
        options["velocity"] = "isotropic"

        def work() -> Result:
            run = MCMC(
                DIMS(network, **options),
                samples,
                0,
                1,
                seed=1,
                progress_bar=False,
                compile=False,
            ).run(*here)
            target = Target.from_model(network, *here, compile=False)
            loss = -target.log_likelihood(run.positions.flatten(0, 1)).double()
            # minima differ by rounding; their losses have one distribution
            return {
                "mean": loss.mean()[None],
                "error": loss.std()[None] / len(loss) ** 0.5,
            }

        return work

    return Case(make, None)


def gibbs(rows: int, columns: int, particles: int) -> Case:
    """A Gibbs posterior by sequential Monte Carlo."""
    x, y = (t.double() for t in table(rows, columns))
    sign = 2 * y - 1

    def predictor(x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(x.new_zeros(columns), 1.0).to_event(1))
        return x @ w

    def loss(prediction: Tensor, y: Tensor) -> Tensor:
        return softplus(-prediction * y)

    def make(device: torch.device) -> Work:
        here = x.to(device), sign.to(device)
        seeds = itertools.count()

        def work() -> Result:
            posterior = GibbsPosterior(
                GibbsModel(predictor, loss),
                betas=[0.001, 0.01],
                num_particles=particles,
                seed=next(seeds),
                dtype=torch.float64,
                progress_bar=False,
            ).run(*here)
            # particles start as draws of the prior, which the device makes
            return {"call": torch.as_tensor(posterior.log_z)}

        return work

    return Case(make, None)


def gauss_newton(rows: int, columns: int, vectors: int) -> Case:
    """Products with the Gauss-Newton matrix, on all threads of the processor."""
    data = table(rows, columns)
    v = numbers(vectors, columns, seed=4)

    def make(device: torch.device) -> Work:
        here = [t.to(device) for t in data]
        target = Target.from_model(logistic, *here, compile=False)
        at, probes = torch.zeros(columns, device=device), v.to(device)
        return lambda: {"product": GaussNewton(target, at).matvec(probes)}

    return Case(make, 1e-4, threads=os.cpu_count() or 1)


def gradients(quick: bool, rung: Rung = "traced") -> dict[str, Case]:
    """Name the cases of gradients."""
    if quick:
        return {f"gradient {rung}, 200 x 5, 4 chains": gradient(200, 5, 4, rung)}
    return {
        f"gradient {rung}, 100,000 x 100, {chains:,} chains": gradient(
            100_000, 100, chains, rung
        )
        for chains in (64, 1024)
    }


def compiled(quick: bool) -> dict[str, Case]:
    """Name the cases of compiled gradients."""
    return gradients(quick, "compiled")


def hmc(quick: bool) -> dict[str, Case]:
    """Name the cases of HMC."""
    if quick:
        return {
            "HMC transitions, 200 x 5, 4 chains": transitions(200, 5, 4, 2),
            "HMC run, 50 x 3, 8 chains": whole_run(50, 3, 8, 100, 20),
        }
    name = "HMC transitions, 100,000 x 100"
    return {
        f"{name}, 64 chains": transitions(100_000, 100, 64, 4),
        f"{name}, 1,024 chains": transitions(100_000, 100, 1024, 1),
        "HMC run, 2,000 x 10, 256 chains": whole_run(2000, 10, 256, 150, 50),
        "HMC run, 100 x 5, 16 chains": whole_run(100, 5, 16, 200, 100),
    }


def cases(quick: bool) -> dict[str, Case]:
    """Name the cases of the other samplers."""
    if quick:
        return {
            "DIMS, network of 10": minima(20, 2, 4),
            "Gibbs posterior, 50 x 3": gibbs(50, 3, 64),
            "GGN products, 200 x 5": gauss_newton(200, 5, 4),
        }
    return {
        "GGN products, 100,000 x 100, 64 vectors": gauss_newton(100_000, 100, 64),
        "Gibbs posterior, 1,000 x 5, 256 particles": gibbs(1000, 5, 256),
        "DIMS, network of 10, 64 minima": minima(20, 2, 64),
    }
