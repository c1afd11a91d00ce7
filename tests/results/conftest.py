"""A result made by hand, so that what its draws should give is known."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.results.posterior import PosteriorDraws


class Result(PosteriorDraws):
    """Draws of a target, by whomever."""

    def __init__(self, target, q, stats, superchains, seed):
        self._target, self._q, self._stats = target, q, stats
        self._notes = []
        self.superchains = superchains
        self.run_seed = seed

    def _attributes(self):
        chains = self.positions.shape[0]
        return {"model": "m", "kernel": "K", "num_chains": chains}


@pytest.fixture
def result(seed):
    """Make a result of a model at its arguments and of positions."""

    def make(model, *args, q, stats=None, superchains=None, **kwargs):
        target = model
        if not isinstance(model, Target):
            target = Target.from_model(model, *args, dtype=torch.float64, **kwargs)
        q = torch.as_tensor(q, dtype=torch.float64)
        return Result(target, q, dict(stats or {}), superchains, seed)

    return make
