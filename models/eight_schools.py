"""Eight schools, non-centred: effects of coaching in eight parallel experiments.

The classic small hierarchical model (Rubin 1981; Gelman et al., Bayesian Data
Analysis, section 5.5). Each school's effect is mu + tau * eta with standard normal
eta, so the joint density has a maximum and there is no funnel. With ten parameters
for eight numbers, the maxima of the likelihood alone form a surface.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


def model(sigma: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
    with pyro.plate("schools", sigma.shape[0]):
        eta = pyro.sample("eta", dist.Normal(zero, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data() -> tuple[Tensor, Tensor]:
    return torch.tensor(ERRORS), torch.tensor(EFFECTS)


def truth() -> dict[str, Tensor]:
    """Posterior means and standard deviations of mu and tau, by quadrature.

    Given tau everything is normal, which leaves one integral, over tau.
    """
    sigma, y = (value.double() for value in data())
    angle = torch.linspace(0.0, 1.0, 20_002, dtype=torch.float64)[1:-1]
    tau = 5.0 * torch.tan(torch.pi / 2 * angle)  # uniform angle = half-Cauchy prior
    precision = 1.0 / (sigma**2 + tau[:, None] ** 2)
    total = precision.sum(-1) + 1.0 / 25.0
    mean = (precision * y).sum(-1) / total
    log_weight = 0.5 * (precision.log().sum(-1) - total.log())
    log_weight += 0.5 * (total * mean**2 - (precision * y**2).sum(-1))
    weight = torch.softmax(log_weight, 0)
    mu_mean, tau_mean = weight @ mean, weight @ tau
    values = {
        "mu_mean": mu_mean,
        "mu_sd": (weight @ (1.0 / total + (mean - mu_mean) ** 2)).sqrt(),
        "tau_mean": tau_mean,
        "tau_sd": (weight @ (tau - tau_mean) ** 2).sqrt(),
    }
    return {name: v.to(torch.get_default_dtype()) for name, v in values.items()}


def options() -> dict[str, object]:
    return {"loss": "nll", "alpha": 0.0}


if __name__ == "__main__":
    known = truth()
    print("exact posterior")
    for site in ("mu", "tau"):
        mean, sd = known[f"{site}_mean"], known[f"{site}_sd"]
        print(f"  {site:3}   mean {mean:.3f}   sd {sd:.3f}")
