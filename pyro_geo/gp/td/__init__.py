"""Values of states by temporal differences, on GPyTorch.

Importing GPyTorch takes a second; :mod:`pyro_geo.gp` imports the names below when they
are first asked for.
"""

from pyro_geo.gp._batch import dense_algebra
from pyro_geo.gp.td._exact import ExactGPTD
from pyro_geo.gp.td._kernel import TDKernel, TDMean
from pyro_geo.gp.td._likelihood import TDLikelihood
from pyro_geo.gp.td._model import Outlier
from pyro_geo.gp.td._online import OnlineGPTD
from pyro_geo.gp.td._sparse import SparseGPTD
from pyro_geo.gp.td._tridiagonal import TridiagonalLinearOperator
from pyro_geo.gp.td._variational import VariationalGPTD

__all__ = [
    "ExactGPTD",
    "OnlineGPTD",
    "Outlier",
    "SparseGPTD",
    "TDKernel",
    "TDLikelihood",
    "TDMean",
    "TridiagonalLinearOperator",
    "VariationalGPTD",
    "dense_algebra",
]
