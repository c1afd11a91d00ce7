"""Decisions over time under unknown dynamics.

Modules:
    tabular: exact action values where the states can be listed.
    boolean_network: gene networks, their filter, likelihood and control.
    environments: plants to try controllers on, and Gymnasium environments of them.
"""

from pyro_geo.planning.tabular import (
    MatrixDynamics,
    TabularDynamics,
    TabularValues,
    TabularVI,
)

__all__ = ["MatrixDynamics", "TabularDynamics", "TabularVI", "TabularValues"]
