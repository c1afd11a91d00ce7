"""Part `saas`: the sparse-axis-aligned Gaussian process on Branin's function.

Thirty points, 30 inputs, double precision, one thread. Tree depth 6 and 512 steps of
warm-up for the peers, as BoTorch sets them; 16 chains on our side and NumPyro's, one
of Pyro's.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from _bench import Row, load
from _hmc_common import (
    DRAWS,
    NUMPYRO,
    PYRO,
    RATE,
    Run,
    installed,
    missing,
    rate_rows,
)
from _hmc_posteriors import our_runs, take_turns
from torch import Tensor

from pyro_geo.density import Target

CASE = "saas"
CHAINS = 16
DEPTH, WARMUP = 6, 512
PYRO_DRAWS = 512
PYRO_LIMIT = 300.0  # processor seconds for one metric


def data(quick: bool) -> tuple[Tensor, Tensor]:
    """The gallery's data; a few points in a quick run."""
    x, y = load("saas_gp").data()
    return (x[:6, :8], y[:6]) if quick else (x, y)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Compare the three sides."""
    module, (x, y) = load("saas_gp"), data(quick)
    target = Target.from_model(
        module.model, x, y, dtype=torch.float64, compile=not quick
    )
    draws = 40 if quick else DRAWS
    ours = our_runs(target, CHAINS, draws, quick)
    there = installed("numpyro")
    peers = numpyro_runs(target, draws, quick) if there else {}
    rows = take_turns(CASE, ours, peers, quick)
    if not there:
        rows.append(missing(CASE, NUMPYRO, RATE))
    yield rows + pyro_rows(quick)


def numpyro_runs(
    target: Target, num_samples: int, quick: bool
) -> dict[str, Callable[[int], Run]]:
    """Check that the densities agree and compile NumPyro's sampler."""
    from _hmc_numpyro import samplers

    model = numpyro_model(target, quick)
    if quick:  # compiling takes too long; part `posteriors` walks that path
        return {}
    return samplers(
        model, CHAINS, num_samples, quick, warmup=WARMUP, max_tree_depth=DEPTH
    )


def numpyro_model(target: Target, quick: bool) -> Callable[[], None]:
    """Bind the data to the NumPyro model, whose density must be the target's."""
    from _hmc_density import check_agreement
    from _hmc_numpyro import as_arrays
    from _hmc_numpyro_models import saas, saas_data

    x, y = data(quick)
    noise = load("saas_gp").MIN_NOISE
    model = partial(saas, as_arrays(saas_data(x.numpy(), y.numpy(), noise)))
    q = target.initial(7, "prior", torch.Generator().manual_seed(0))
    check_agreement(CASE, target, model, q)
    return model


def pyro_rows(quick: bool) -> list[Row]:
    """Run Pyro's NUTS once, with a diagonal and a dense metric."""
    from _hmc_pyro import run

    rows = []
    for dense in (False,) if quick else (False, True):
        found = run(
            load("saas_gp").model,
            data(quick),
            20 if quick else PYRO_DRAWS,
            dense=dense,
            limit=PYRO_LIMIT,
            warmup=10 if quick else WARMUP,
            max_tree_depth=2 if quick else DEPTH,
        )
        rows += rate_rows(CASE, PYRO, [found])
    return rows
