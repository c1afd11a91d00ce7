"""Hierarchical Gaussian filters over any network of states."""

from pyro_geo.filtering.hgf.network.distribution import NetworkDistribution
from pyro_geo.filtering.hgf.network.network import HGFNetwork
from pyro_geo.filtering.hgf.network.trajectory import NetworkState, NetworkTrajectory

__all__ = ["HGFNetwork", "NetworkDistribution", "NetworkState", "NetworkTrajectory"]
