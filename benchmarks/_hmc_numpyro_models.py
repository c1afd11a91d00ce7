"""The posteriors of the HMC benchmark as NumPyro models.

Written from the published Stan programs, constants of the priors included: the density
on the unconstrained space is Stan's. Data come as they lie in posteriordb, by name.
Flat priors are improper sites, and ordered vectors improper sites with the density of
their entries added, as in Stan.
"""

import functools
import importlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Peers of the `bench` extra: not there where only `dev` is installed.
jax: Any = importlib.import_module("jax")
jnp: Any = importlib.import_module("jax.numpy")
numpyro: Any = importlib.import_module("numpyro")
dist: Any = importlib.import_module("numpyro.distributions")
constraints = dist.constraints

Data = Mapping[str, Any]
Model = Callable[[Data], None]


def flat(name: str, support: Any, *shape: int) -> Any:
    """Sample a site whose prior is flat on its support."""
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def density(name: str, prior: Any, value: Any) -> None:
    """Add the log-density of a value, summed."""
    numpyro.factor(name, prior.log_prob(value).sum())


def observe(mean: Any, scale: Any, y: Any) -> None:
    """Observe independent normal outcomes."""
    numpyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=y)


def ar_k(data: Data) -> None:
    """Autoregression of order K."""
    k, y = int(data["K"]), data["y"]
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([k]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    lags = jnp.stack([y[k - 1 - i : len(y) - 1 - i] for i in range(k)], -1)
    observe(alpha + lags @ beta, sigma, y[k:])


def eight_schools(data: Data) -> None:
    """Eight schools, non-centred."""
    eta = numpyro.sample(
        "theta_trans", dist.Normal(0.0, 1.0).expand([int(data["J"])]).to_event(1)
    )
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    observe(mu + tau * eta, data["sigma"], data["y"])


def garch11(data: Data) -> None:
    """GARCH(1, 1); the bound of the last coefficient depends on the one before."""
    y = data["y"]
    mu = flat("mu", constraints.real)
    alpha0 = flat("alpha0", constraints.positive)
    alpha1 = flat("alpha1", constraints.unit_interval)
    share = flat("share", constraints.unit_interval)
    beta1 = numpyro.deterministic("beta1", share * (1.0 - alpha1))
    numpyro.factor("jacobian", jnp.log1p(-alpha1))
    news = alpha0 + alpha1 * (y[:-1] - mu) ** 2
    first = jnp.asarray(data["sigma1"], y.dtype) ** 2 + 0.0 * mu

    def step(variance: Any, shock: Any) -> tuple[Any, Any]:
        variance = shock + beta1 * variance
        return variance, variance

    _, later = jax.lax.scan(step, first, news)
    observe(mu, jnp.sqrt(jnp.concatenate([first[None], later])), y)


def gp_regr(data: Data) -> None:
    """A Gaussian process with squared-exponential kernel."""
    x, y = data["x"], data["y"]
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    square = (x[:, None] - x) ** 2
    kernel = alpha**2 * jnp.exp(-0.5 * square / rho**2) + sigma * jnp.eye(len(x))
    factor = jnp.linalg.cholesky(kernel)
    process = dist.MultivariateNormal(jnp.zeros(len(x)), scale_tril=factor)
    numpyro.sample("y", process, obs=y)


def hmm_example(data: Data) -> None:
    """A hidden Markov model with two states, by the forward algorithm."""
    y, k = data["y"], int(data["K"])
    rows = [
        numpyro.sample(f"theta{i + 1}", dist.Dirichlet(jnp.ones(k))) for i in range(k)
    ]
    mu = flat("mu", constraints.positive_ordered_vector, k)
    density("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0), mu)
    step = jnp.log(jnp.stack(rows))  # (from, to)
    emit = dist.Normal(mu, 1.0).log_prob(y[:, None])  # (n, k)

    def forward(gamma: Any, now: Any) -> tuple[Any, None]:
        # pairwise: 1.3 times as fast as logsumexp when XLA compiles it
        return functools.reduce(jnp.logaddexp, gamma[:, None] + step) + now, None

    gamma, _ = jax.lax.scan(forward, emit[0], emit[1:])
    numpyro.factor("y", jax.nn.logsumexp(gamma))


def linear(x: Any, y: Any, scale: float | None) -> None:
    """Regress on columns, flat priors, the scale's half Cauchy or flat."""
    beta = flat("beta", constraints.real_vector, x.shape[-1])
    if scale is None:
        sigma = flat("sigma", constraints.positive)
    else:
        sigma = numpyro.sample("sigma", dist.HalfCauchy(scale))
    observe(x @ beta, sigma, y)


def columns(*values: Any) -> Any:
    """Stack columns beside an intercept."""
    return jnp.stack([jnp.ones_like(values[0]), *values], -1)


def kidscore_momiq(data: Data) -> None:
    """Children's scores on their mothers'."""
    linear(columns(data["mom_iq"]), data["kid_score"], 2.5)


def kidscore_interaction(data: Data) -> None:
    """Children's scores on their mothers' and whether these finished school."""
    iq, hs = data["mom_iq"], data["mom_hs"]
    linear(columns(hs, iq, hs * iq), data["kid_score"], 2.5)


def kilpisjarvi(data: Data) -> None:
    """Summer temperatures over the years."""
    alpha = numpyro.sample("alpha", dist.Normal(data["pmualpha"], data["psalpha"]))
    beta = numpyro.sample("beta", dist.Normal(data["pmubeta"], data["psbeta"]))
    sigma = flat("sigma", constraints.positive)
    observe(alpha + beta * data["x"], sigma, data["y"])


def logearn_height(data: Data) -> None:
    """Log earnings on height."""
    linear(columns(data["height"]), jnp.log(data["earn"]), None)


def logmesquite_logvolume(data: Data) -> None:
    """Log weight of bushes on their log volume."""
    volume = jnp.log(data["diam1"] * data["diam2"] * data["canopy_height"])
    linear(columns(volume), jnp.log(data["weight"]), None)


def low_dim_gauss_mix(data: Data) -> None:
    """A mixture of two normals in one dimension, ordered by their means."""
    y = data["y"]
    mu = flat("mu", constraints.ordered_vector, 2)
    density("mu_prior", dist.Normal(0.0, 2.0), mu)
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    first = jnp.log(theta) + dist.Normal(mu[0], sigma[0]).log_prob(y)
    second = jnp.log1p(-theta) + dist.Normal(mu[1], sigma[1]).log_prob(y)
    # components apart and log(1 + x): 1.9 and 2.8 times as fast as stacked ones and
    # logaddexp when XLA compiles them
    rest = jnp.log(1.0 + jnp.exp(-jnp.abs(first - second)))
    numpyro.factor("y", (jnp.maximum(first, second) + rest).sum())


def nes(data: Data) -> None:
    """Party identification on ideology, race, age, education, sex and income."""
    age = data["age_discrete"]
    ages = [(age == i).astype(data["real_ideo"].dtype) for i in (2, 3, 4)]
    names = ["educ1", "gender", "income"]
    rest = [data[name] for name in names]
    linear(
        columns(data["real_ideo"], data["race_adj"], *ages, *rest),
        data["partyid7"],
        None,
    )


def blr(data: Data) -> None:
    """Bayesian linear regression."""
    size = int(data["D"])
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([size]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    observe(data["X"] @ beta, sigma, data["y"])


MODELS: dict[str, Model] = {
    "arK-arK": ar_k,
    "earnings-logearn_height": logearn_height,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "garch-garch11": garch11,
    "gp_pois_regr-gp_regr": gp_regr,
    "hmm_example-hmm_example": hmm_example,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kidiq-kidscore_momiq": kidscore_momiq,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": low_dim_gauss_mix,
    "mesquite-logmesquite_logvolume": logmesquite_logvolume,
    "nes1972-nes": nes,
    "sblri-blr": blr,
}


def read(name: str, folder: Path) -> dict[str, Any]:
    """Read the data of a posterior: arrays in double precision, counts as they are.

    Args:
        name: of the posterior.
        folder: of posteriordb, the one that holds `posterior_database`.

    Returns:
        The data by the names of the Stan program.
    """
    root = folder / "posterior_database"
    entry = json.loads((root / "posteriors" / f"{name}.json").read_text())
    with zipfile.ZipFile(
        root / "data" / "data" / f"{entry['data_name']}.json.zip"
    ) as z:
        raw = json.loads(z.read(z.namelist()[0]))
    return {
        key: np.asarray(value, np.float64) if isinstance(value, list) else value
        for key, value in raw.items()
    }


def saas(data: Data) -> None:
    """The sparse-axis-aligned Gaussian process of the gallery.

    Squared differences of every pair of rows come with the data, as `pairs`, and the
    place of each pair in the matrix as `place`, 0 for the diagonal: three times as fast
    as scaling the rows and taking differences.
    """
    y = data["y"]
    n, (_, num_dims) = len(y), data["pairs"].shape
    outputscale = numpyro.sample("outputscale", dist.Gamma(2.0, 0.15))
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    noise = data["min_noise"] + numpyro.sample("noise", dist.Gamma(0.9, 10.0))
    tausq = numpyro.sample("kernel_tausq", dist.HalfCauchy(0.1))
    local = dist.HalfCauchy(1.0).expand([num_dims]).to_event(1)
    inverse = tausq * numpyro.sample("_kernel_inv_length_sq", local)
    d = jnp.sqrt(jnp.maximum(5.0 * (data["pairs"] @ inverse), 1e-12))
    matern = (1.0 + d + d**2 / 3.0) * jnp.exp(-d)
    correlations = jnp.concatenate([jnp.ones(1), matern])[data["place"]]
    covariance = outputscale * correlations + noise * jnp.eye(n)
    process = dist.MultivariateNormal(jnp.full(n, mean), covariance)
    numpyro.sample("y", process, obs=y)


def saas_data(x: np.ndarray, y: np.ndarray, min_noise: float) -> dict[str, Any]:
    """Lay out the inputs of :func:`saas`."""
    i, j = np.triu_indices(len(x), 1)
    place = np.zeros((len(x), len(x)), np.int64)
    place[i, j] = place[j, i] = np.arange(1, len(i) + 1)
    pairs = (x[i] - x[j]) ** 2
    return {"pairs": pairs, "place": place, "y": y, "min_noise": min_noise}
