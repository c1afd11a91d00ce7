"""Posterior summaries: normal posteriors, combined or as priors, and moves of a fit.

Modules:
    gaussian: a posterior as one normal distribution in unconstrained space.
    combining: several posteriors, or several sets of draws, into one.
    conflicts: whether posteriors agree.
    comparison: tables and pictures of several posteriors.
    priors: a posterior as the prior of the next model.
    deviation: distance of each site from a prior, an earlier fit or an anchor.
    projection: selective projection decay applied to a finished fit.
    finetuning: one guide, moved to other data in several ways.
    merge: fine-tuned networks merged into one, with a forecast.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.optim.decay.sites import prior_moments
    from pyro_geo.summaries.combining import combine, consensus
    from pyro_geo.summaries.comparison import compare, overlays
    from pyro_geo.summaries.conflicts import conflict
    from pyro_geo.summaries.deviation import deviation_page, deviation_report
    from pyro_geo.summaries.gaussian import GaussianPosterior
    from pyro_geo.summaries.priors import GaussianPrior
    from pyro_geo.summaries.projection import Projection, selective_projection

__all__ = [
    "GaussianPosterior",
    "GaussianPrior",
    "Projection",
    "combine",
    "compare",
    "conflict",
    "consensus",
    "deviation_page",
    "deviation_report",
    "overlays",
    "prior_moments",
    "selective_projection",
]

__getattr__ = importer(
    globals(),
    {
        "GaussianPosterior": "pyro_geo.summaries.gaussian",
        "GaussianPrior": "pyro_geo.summaries.priors",
        "Projection": "pyro_geo.summaries.projection",
        "combine": "pyro_geo.summaries.combining",
        "compare": "pyro_geo.summaries.comparison",
        "conflict": "pyro_geo.summaries.conflicts",
        "consensus": "pyro_geo.summaries.combining",
        "deviation_page": "pyro_geo.summaries.deviation",
        "deviation_report": "pyro_geo.summaries.deviation",
        "overlays": "pyro_geo.summaries.comparison",
        "prior_moments": "pyro_geo.optim.decay.sites",
        "selective_projection": "pyro_geo.summaries.projection",
    },
)
