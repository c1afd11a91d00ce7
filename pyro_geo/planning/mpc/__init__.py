"""Plan under uncertain dynamics, act, and plan again.

Modules:
    dynamics: what a planner simulates; plants.
    pyro_dynamics: any Pyro model of one step; site_noise makes its noise an argument.
    draws: of what is unknown, from whatever holds them.
    rollout: candidates under every draw, side by side.
    risk, terminal: how costs are judged, and what lies behind the horizon.
    objective: what is minimised; planner: what all planners share.
    cem, icem, mppi: the planners.
    plan: what they return.
    episodes: runs in environments of Gymnasium, and on plants.
    coloured, shifting: noise and sequences over time.
"""

from pyro_geo.planning.mpc.cem import CEMPlanner
from pyro_geo.planning.mpc.coloured import coloured
from pyro_geo.planning.mpc.draws import Pool, pool_of
from pyro_geo.planning.mpc.dynamics import Box, Dynamics, PlantDynamics
from pyro_geo.planning.mpc.episodes import Episode, play, run_plant
from pyro_geo.planning.mpc.icem import ICEMPlanner
from pyro_geo.planning.mpc.mppi import MPPIPlanner
from pyro_geo.planning.mpc.plan import Plan
from pyro_geo.planning.mpc.planner import Planner
from pyro_geo.planning.mpc.pyro_dynamics import PyroDynamics
from pyro_geo.planning.mpc.risk import CVaR
from pyro_geo.planning.mpc.terminal import GPTDTerminal

__all__ = [
    "Box",
    "CEMPlanner",
    "CVaR",
    "Dynamics",
    "Episode",
    "GPTDTerminal",
    "ICEMPlanner",
    "MPPIPlanner",
    "Plan",
    "PlantDynamics",
    "Planner",
    "Pool",
    "PyroDynamics",
    "coloured",
    "play",
    "pool_of",
    "run_plant",
]
