"""Decisions over time under unknown dynamics.

Modules:
    priors: of what is unknown.
    backends: action values of known dynamics.
    policy_iteration, sarsa: values as Gaussian processes.
    grid: values on a grid of states.
    simulator: a plant made of functions.
    offline: draws of the prior, each of them solved.
    library: what the offline stage leaves.
    posteriors: draws and weights of what is known now.
    hmc_posterior: the same by Hamiltonian Monte Carlo, for any Pyro model.
    network_posterior: the same of a Boolean network.
    parameter_gp: values between the solved draws.
    selectors: rules that choose an action.
    controller: acts, and learns.
    reports: episodes of several rules, compared and pictured.
    tabular: exact action values where the states can be listed.
    boolean_network: gene networks, their filter, likelihood and control.
    mpc: plans by simulation, under draws of the dynamics.
    environments: plants to try controllers on, and Gymnasium environments of them.
"""

from pyro_geo.planning.backends import (
    ExactValues,
    Learned,
    TabularBackend,
    ValueBackend,
)
from pyro_geo.planning.controller import BayesController, Decision
from pyro_geo.planning.grid import GridBackend
from pyro_geo.planning.hmc_posterior import MCMCPosterior, dynamics_model
from pyro_geo.planning.library import OfflineLibrary
from pyro_geo.planning.mpc import (
    CEMPlanner,
    CVaR,
    ICEMPlanner,
    MPPIPlanner,
    Plan,
    PyroDynamics,
)
from pyro_geo.planning.network_posterior import FilterPosterior
from pyro_geo.planning.offline import OfflinePlanner
from pyro_geo.planning.parameter_gp import ParameterGP, ParameterPrediction
from pyro_geo.planning.policy_iteration import GPTDPolicyIteration
from pyro_geo.planning.posteriors import (
    EnumeratedPosterior,
    Experience,
    Knowledge,
    ParameterPosterior,
    PSISPosterior,
)
from pyro_geo.planning.priors import Prior
from pyro_geo.planning.sarsa import GPSarsa
from pyro_geo.planning.selectors import (
    MMRL,
    UCB,
    make_selector,
    mean_rule,
    most_probable_rule,
    prior_mean_rule,
    thompson_rule,
)
from pyro_geo.planning.simulator import Simulator
from pyro_geo.planning.tabular import (
    MatrixDynamics,
    TabularDynamics,
    TabularValues,
    TabularVI,
)

__all__ = [
    "MMRL",
    "UCB",
    "BayesController",
    "CEMPlanner",
    "CVaR",
    "Decision",
    "EnumeratedPosterior",
    "ExactValues",
    "Experience",
    "FilterPosterior",
    "GPSarsa",
    "GPTDPolicyIteration",
    "GridBackend",
    "ICEMPlanner",
    "Knowledge",
    "Learned",
    "MCMCPosterior",
    "MPPIPlanner",
    "MatrixDynamics",
    "OfflineLibrary",
    "OfflinePlanner",
    "PSISPosterior",
    "ParameterGP",
    "ParameterPrediction",
    "ParameterPosterior",
    "Plan",
    "Prior",
    "PyroDynamics",
    "Simulator",
    "TabularBackend",
    "TabularDynamics",
    "TabularVI",
    "TabularValues",
    "ValueBackend",
    "dynamics_model",
    "make_selector",
    "mean_rule",
    "most_probable_rule",
    "prior_mean_rule",
    "thompson_rule",
]
