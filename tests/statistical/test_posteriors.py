"""HMC against the published draws of posteriordb, by the triple gate."""

import pytest
import torch

from pyro_geo import Target
from pyro_geo.infer import HMC, MCMC
from pyro_geo.testing.gates import check_posterior
from pyro_geo.testing.posteriordb import POSTERIORS, folder, load

pytestmark = pytest.mark.skipif(
    folder() is None, reason="no posteriordb folder; set PDB_PATH to one"
)

# Probability that a sound sampler fails one of the fourteen.
FALSE_ALARM = 1e-3

QUICK = (
    "arK-arK",
    "eight_schools-eight_schools_noncentered",
    "gp_pois_regr-gp_regr",
    "mesquite-logmesquite_logvolume",
    "sblri-blr",
)


PREDATION = "hudson_lynx_hare-lotka_volterra"


def starts(posterior, target, num_chains, seed):
    """Starts near what the data say at sight, where uniform ones do not do.

    Predator and prey have a second mode 40 nats below the first, and close to half of
    all uniform starts end in it. Periods of ten years and the first counts do not.
    """
    if posterior.name != PREDATION:
        return None
    counts, pace = posterior.args[-1], 2 * torch.pi / 10
    one = counts.new_tensor(pace)
    hare, lynx = counts.mean(0)
    sites = {
        "theta": torch.stack([one, one / lynx, one, one / hare]),
        "z_init": posterior.args[-2],
        "sigma": counts.new_full((2,), 0.5),
    }
    generator = torch.Generator().manual_seed(seed)
    q = target.unconstrain(sites)
    noise = torch.randn(num_chains, target.dim, generator=generator, dtype=q.dtype)
    return target.layout.unflatten(q + 0.2 * noise)


def draws_of(fit):
    """Latent and deterministic sites, `(chains, draws, *shape)`."""
    q = fit.positions
    derived = fit.target.deterministics(q.flatten(0, 1))
    return fit.get_samples(group_by_chain=True) | {
        name: value.unflatten(0, q.shape[:2]) for name, value in derived.items()
    }


# A few divergent transitions are reported where scales are weakly known; whether they
# did harm is what the gate says.
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.DivergenceWarning")
# One mode of the hidden Markov model has a mass of about e**-55. One of the normal
# mixture, in which a component is empty, has e**-380. One and three in eight of the
# uniform starts lead there; such chains are restarted at others, which is reported.
@pytest.mark.filterwarnings("ignore:R-hat has lost the dispersed starts")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in POSTERIORS
    ],
)
def test_hmc_draws_what_was_published(name, seed):
    posterior = load(name)
    target = Target.from_model(posterior.model, *posterior.args, dtype=torch.float64)
    fit = MCMC(
        HMC(target),
        initial_params=starts(posterior, target, 16, seed),
        initial_space="unconstrained",
        num_samples=500,
        num_chains=16,
        seed=seed,
        dtype=torch.float64,
        compile=False,  # compiling takes longer than the run
        progress_bar=False,
    ).run()
    draws = draws_of(fit)
    assert posterior.reference.keys() <= draws.keys()
    check_posterior(
        draws, posterior.reference, false_alarm=FALSE_ALARM / len(POSTERIORS)
    )
