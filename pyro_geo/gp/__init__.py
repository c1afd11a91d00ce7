"""Gaussian processes on GPyTorch: values of states, and draws of hyperparameters.

Values of states are learned from :class:`Transitions` by :class:`ExactGPTD`,
:class:`SparseGPTD`, :class:`VariationalGPTD` or :class:`OnlineGPTD`. They are GPyTorch
models, made of :class:`TDKernel`, :class:`TDMean` and :class:`TDLikelihood`.

Sampling hyperparameters needs the process in plain tensors, inside an ordinary Pyro
model; prediction is done by GPyTorch. :func:`load_exact_gp` and :func:`load_gptd` make
one batched model of all draws, and :func:`predict` mixes their predictions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import what needs GPyTorch when it is first asked for.

    Args:
        name: the attribute.

    Returns:
        The object of that name.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("pyro_geo.gp.td"), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
