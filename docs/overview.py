"""Draw the picture at the top of the README: `python docs/overview.py`.

Three panels, one for each kind of answer: a posterior (eight schools), an ensemble of
loss minima (the network with a gap in its data) and a certificate of future error.
"""

import runpy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes

from pyro_geo.infer import DIMS, HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify

HERE = Path(__file__).resolve().parent
INK, ACCENT, PALE = "#33415c", "#c1440e", "#9db4c0"


def gallery(name: str) -> dict[str, Any]:
    """Load a model of the gallery."""
    return runpy.run_path(str(HERE.parent / "models" / f"{name}.py"))


def posterior(axes: Axes) -> None:
    """Draw intervals of the eight schools' effects beside what was measured."""
    schools = gallery("eight_schools")
    errors, effects = schools["data"]()
    kernel = HMC(schools["model"], target_accept_prob=0.95)
    fit = MCMC(kernel, 200, num_chains=64, seed=1, progress_bar=False)
    idata = fit.run(errors, effects).to_arviz(log_likelihood=False)
    theta = torch.from_numpy(idata.posterior["theta"].values).flatten(0, 1)
    low, middle, high = theta.quantile(torch.tensor([0.05, 0.5, 0.95]), 0)
    rows = torch.arange(8)
    axes.hlines(rows, low, high, color=PALE, lw=5)
    axes.plot(middle, rows, "o", color=INK, ms=5, label="posterior")
    axes.plot(effects, rows, "x", color=ACCENT, ms=6, label="measured")
    axes.set(title="HMC: the posterior", xlabel="effect", yticks=[])
    axes.set_ylabel("school")
    axes.set_xlim(-8, 45)
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def ensemble(axes: Axes) -> None:
    """Draw networks that fit equally well, and part where there are no data."""
    gap = gallery("gap_network")
    x, y = gap["data"]()
    kernel = DIMS(gap["model"], **gap["options"]())
    fit = MCMC(kernel, num_samples=16, num_chains=4, seed=1, progress_bar=False)
    draws = fit.run(x, y).get_samples()
    grid = torch.linspace(-2.2, 2.2, 111)[:, None]
    hidden = torch.tanh(grid @ draws["w1"] + draws["b1"].unsqueeze(1))
    hidden = torch.tanh(hidden @ draws["w2"] + draws["b2"].unsqueeze(1))
    curves = (hidden @ draws["w3"] + draws["b3"].unsqueeze(1))[..., 0]  # (draws, 111)
    axes.plot(grid[:, 0], curves.T, color=INK, lw=0.5, alpha=0.3)
    axes.plot(x[:, 0], y, "o", color=ACCENT, ms=3)
    axes.set(title="DIMS: minima of a loss", xlabel="input", ylim=(-3, 3))


def certificate(axes: Axes) -> None:
    """Draw a bound on future error beside the error seen, as examples grow."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([2.0, -1.0, 0.5])
    x = torch.randn(4_000, 3, generator=generator)
    y = (x @ truth + torch.randn(4_000, generator=generator)).sign()
    gibbs = GibbsModel(_linear, _logistic)
    counts, bounds, seen = [125, 250, 500, 1_000, 2_000, 4_000], [], []
    for n in counts:
        run = GibbsPosterior(gibbs, betas=[0.1, 0.3, 1.0], seed=1, progress_bar=False)
        found = certify(run.run(x[:n], y[:n]).codebook(), _wrong, (x[:n], y[:n]))
        bounds.append(found.value)
        seen.append(found.empirical_risk)
    axes.fill_between(counts, bounds, seen, color=PALE, alpha=0.5)
    axes.plot(counts, bounds, "-", color=INK, label="certified at most")
    axes.plot(counts, seen, "--", color=ACCENT, label="seen in the data")
    axes.set(title="Gibbs posterior: a certificate", xlabel="examples", xscale="log")
    axes.set(ylabel="error of future predictions", ylim=(0, 0.5))
    axes.set_xticks(counts, [f"{n:,}" for n in counts], minor=False)
    axes.minorticks_off()
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def _linear(x: torch.Tensor) -> torch.Tensor:
    return x @ pyro.sample("w", dist.Normal(torch.zeros(3), 3.0).to_event(1))


def _logistic(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(-logits * y)


def _wrong(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (logits * y <= 0).to(logits)


def main() -> None:
    """Draw all panels and write the file."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    for axes, draw in zip(panels, (posterior, ensemble, certificate), strict=True):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "_static" / "overview.png", dpi=110)


if __name__ == "__main__":
    main()
