"""Gaussian processes on GPyTorch: values of states, and draws of hyperparameters.

Values of states are learned from :class:`Transitions` by :class:`ExactGPTD`,
:class:`SparseGPTD`, :class:`VariationalGPTD` or :class:`OnlineGPTD`. They are GPyTorch
models, made of :class:`TDKernel`, :class:`TDMean` and :class:`TDLikelihood`.

Sampling hyperparameters needs the process in plain tensors, inside an ordinary Pyro
model; prediction is done by GPyTorch. :func:`load_exact_gp` and :func:`load_gptd` make
one batched model of all draws, and :func:`predict` mixes their predictions.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer
from pyro_geo.gp._hyperparameters import TDNormal, gptd_model, load_gptd
from pyro_geo.gp._predict import load_exact_gp, predict
from pyro_geo.gp._saas import relevance, saas_hyperparameters
from pyro_geo.gp._scores import mixture_scores, saas_scores
from pyro_geo.gp._transitions import Transitions, value_rows

if TYPE_CHECKING:
    from pyro_geo.gp.td import (
        ExactGPTD,
        OnlineGPTD,
        SparseGPTD,
        TDKernel,
        TDLikelihood,
        TDMean,
        TridiagonalLinearOperator,
        VariationalGPTD,
        dense_algebra,
    )

__all__ = [
    "ExactGPTD",
    "OnlineGPTD",
    "SparseGPTD",
    "TDKernel",
    "TDLikelihood",
    "TDMean",
    "TDNormal",
    "Transitions",
    "TridiagonalLinearOperator",
    "VariationalGPTD",
    "dense_algebra",
    "gptd_model",
    "load_exact_gp",
    "load_gptd",
    "mixture_scores",
    "predict",
    "relevance",
    "saas_hyperparameters",
    "saas_scores",
    "value_rows",
]


__getattr__ = importer(
    globals(), {name: "pyro_geo.gp.td" for name in __all__ if name not in globals()}
)


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
