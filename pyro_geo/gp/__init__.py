"""Draws of a Gaussian process's hyperparameters, loaded into GPyTorch.

Sampling needs the process in plain tensors, inside an ordinary Pyro model; prediction
is done by GPyTorch. These functions connect the two: :func:`saas_hyperparameters` turns
the sites of a sparse-axis-aligned model into hyperparameters, :func:`load_exact_gp`
makes one batched `ExactGP` of all draws, and :func:`predict` mixes their predictions.
:func:`relevance` tabulates which inputs matter; :func:`mixture_scores` and
:func:`saas_scores` score predictions.
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
