"""What every inference returns: draws with tables, predictions and reports.

Modules:
    posterior: the one result, with or without weights.
    series: the same of a filter: moments over time, draws when they are asked for.
    steps: where its values are, in memory or in a store.
    samples: its draws, their weights and the facts of the run.
    draws: where its draws are, in memory or in a store.
    predictive: prior and replicated data.
    lane_randomness: random numbers that differ between mapped draws.
    weights: weights of draws, and draws of equal weight made with them.
"""

from pyro_geo.results.draws import Draws, MemoryDraws
from pyro_geo.results.posterior import PosteriorDraws
from pyro_geo.results.predictive import PredictiveModel
from pyro_geo.results.series import Series
from pyro_geo.results.steps import MemorySteps, Steps
from pyro_geo.results.weights import Weights

__all__ = [
    "Draws",
    "MemoryDraws",
    "MemorySteps",
    "PosteriorDraws",
    "PredictiveModel",
    "Series",
    "Steps",
    "Weights",
]
