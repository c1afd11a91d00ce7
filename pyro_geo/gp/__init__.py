"""Draws of a Gaussian process's hyperparameters, loaded into GPyTorch.

Sampling wants the process in plain tensors, inside an ordinary Pyro model; prediction
wants GPyTorch. These functions are the bridge: :func:`saas_hyperparameters` turns the
sites of a sparse-axis-aligned model into hyperparameters, :func:`load_exact_gp` makes
one batched `ExactGP` of all draws, and :func:`predict` mixes what the draws say.
:func:`relevance` tabulates which inputs matter, :func:`mixture_scores` and
:func:`saas_scores` say how good predictions are.
"""

from pyro_geo.gp._predict import load_exact_gp, predict
from pyro_geo.gp._saas import relevance, saas_hyperparameters
from pyro_geo.gp._scores import mixture_scores, saas_scores

__all__ = [
    "load_exact_gp",
    "mixture_scores",
    "predict",
    "relevance",
    "saas_hyperparameters",
    "saas_scores",
]
