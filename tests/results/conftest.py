"""A result made by hand, so that what its draws should give is known."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.results import MemoryDraws, PosteriorDraws


@pytest.fixture
def result(seed):
    """Make a result of a model at its arguments and of positions."""

    def make(
        model, *args, q, stats=None, superchains=None, log_weights=None, **kwargs
    ) -> PosteriorDraws:
        target = model
        if not isinstance(model, Target):
            target = Target.from_model(model, *args, dtype=torch.float64, **kwargs)
        q = torch.as_tensor(q, dtype=torch.float64)
        return PosteriorDraws(
            target,
            MemoryDraws(target, q, stats),
            log_weights=log_weights,
            attributes={"model": "m", "kernel": "K", "num_chains": len(q)},
            superchains=superchains,
            seed=seed,
        )

    return make
