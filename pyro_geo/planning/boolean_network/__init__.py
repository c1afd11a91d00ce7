"""Boolean networks under control: exact filter, likelihood, values and rule posterior.

Modules:
    network: genes and truth tables, some entries of which may be unknown.
    hypercube: functions and distributions over the states.
    channel: what is measured of a gene.
    likelihood: of a series of measurements, and the distribution of a Pyro model.
    filtering: beliefs of state and rules while the network runs.
    rules: the posterior of all sets of unknown rules.
    dynamics: the controlled network as transitions, for exact values.
    problem: what may be flipped and what costs.
    loading: files of networks.
    melanoma: a network of ten genes.
    simulating: controllers on many runs at once.
"""

from pyro_geo.planning.boolean_network.channel import Channel
from pyro_geo.planning.boolean_network.dynamics import NetworkDynamics
from pyro_geo.planning.boolean_network.filtering import (
    BeliefFilter,
    NetworkBelief,
    StateFilter,
)
from pyro_geo.planning.boolean_network.hypercube import state_bits, state_index
from pyro_geo.planning.boolean_network.likelihood import (
    BooleanHMM,
    log_likelihood,
    transition_log_prob,
)
from pyro_geo.planning.boolean_network.loading import load_networks, network_of
from pyro_geo.planning.boolean_network.melanoma import melanoma
from pyro_geo.planning.boolean_network.network import BooleanNetwork
from pyro_geo.planning.boolean_network.problem import NetworkControl
from pyro_geo.planning.boolean_network.rules import RulePosterior, rule_posterior
from pyro_geo.planning.boolean_network.simulating import (
    Episodes,
    NetworkRuns,
    mean_rule,
    no_control,
)

__all__ = [
    "NetworkBelief",
    "BeliefFilter",
    "BooleanHMM",
    "BooleanNetwork",
    "Channel",
    "Episodes",
    "NetworkControl",
    "NetworkDynamics",
    "NetworkRuns",
    "RulePosterior",
    "StateFilter",
    "load_networks",
    "log_likelihood",
    "mean_rule",
    "melanoma",
    "network_of",
    "no_control",
    "rule_posterior",
    "state_bits",
    "state_index",
    "transition_log_prob",
]
