"""Distributions on a ball of information, and likelihoods of bounded information."""

from pyro_geo.distributions.bounded import _divergence as _divergence
