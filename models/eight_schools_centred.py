"""Eight schools, centred: the model whose joint density has no maximum.

The same posterior as `eight_schools.py`, with the effects theta as latents. As tau
goes to zero with every theta at mu, the eight prior terms grow like tau to the power
-8 and the change of variables to log tau gives one power back, so the joint density
in unconstrained space grows like tau to the power -7 and its negative logarithm has
no minimum. Methods that look for one must say so and not return a point far down the
funnel; the likelihood alone has one, at theta = y.
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
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def data() -> tuple[Tensor, Tensor]:
    return torch.tensor(ERRORS), torch.tensor(EFFECTS)


def options() -> dict[str, object]:
    return {"loss": "nll", "alpha": 0.0}


if __name__ == "__main__":
    sigma, y = data()
    print("log joint in unconstrained space, every theta at mu = 8")
    for log_tau in (2.0, 0.0, -5.0, -10.0, -20.0):
        tau = torch.tensor(log_tau).exp()
        point = {"mu": torch.tensor(8.0), "tau": tau, "theta": torch.full((8,), 8.0)}
        trace = pyro.poutine.trace(pyro.condition(model, data=point))
        value = trace.get_trace(sigma, y).log_prob_sum() + log_tau
        print(f"  log tau {log_tau:6.1f}   {value:8.2f}")
