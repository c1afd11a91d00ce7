"""Ways to take one step of the dissipative flow.

A solver offers the start of every lane and proposes one step for it. It does not
decide what becomes of the step: :mod:`pyro_geo.infer.mcmc.dims.flow` accepts or rejects
it, keeps the ledger of energy and friction work, and changes or ends stages.

A new solver is one file in this folder and one line in :data:`SOLVERS`, with its name
in :data:`Integrator` for type checkers.
"""

from typing import Literal

from pyro_geo.infer.mcmc.dims.solvers.dopri5 import DormandPrince
from pyro_geo.infer.mcmc.dims.solvers.protocol import Proposal, Solver
from pyro_geo.infer.mcmc.dims.solvers.splitting import Splitting
from pyro_geo.infer.mcmc.dims.solvers.suzuki import Suzuki

__all__ = ["SOLVERS", "Integrator", "Proposal", "Solver"]

Integrator = Literal["splitting", "dopri5", "suzuki"]
"""The names below, as the type of the option `integrator`."""

SOLVERS: dict[str, type[Solver]] = {
    "splitting": Splitting,
    "dopri5": DormandPrince,
    "suzuki": Suzuki,
}
"""Solvers by the names that the option `integrator` takes."""
