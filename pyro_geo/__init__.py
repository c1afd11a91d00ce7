"""Geometric and mechanical inference methods for Pyro models.

The way of the data is one line: model and data, `Target`, kernel, draws, ArviZ.
Importing this package loads nothing heavy; each name below is imported when it is
first asked for.

Sub-packages:
    density: a Pyro model as a flat, batched, differentiable density.
    engine: what every long computation runs on: kernels, noise, schedule, stores.
    results: what every inference returns, draws with or without weights.
    infer: what a user calls on a model, with the batched runner in `infer.mcmc`.
    distributions: bounded measures, robust likelihoods, hierarchical Gaussian filters.
    filtering: trackers that a lying sensor cannot capture, beliefs of people.
    gp: values of states and draws of hyperparameters, as GPyTorch models.
    planning: decisions over time under unknown dynamics.
    summaries: posteriors combined and used as priors, networks merged, fits compared.
    unlearning: data deleted from fits, and audits of what is left.
    evaluation: scores of predictions and the plain baselines to compare with.
    geometry: curvature, positive-definite matrices, the Laplace approximation.
    optim: descent, Newton steps and cross-entropy searches of many starts at once,
        fine-tuning.
    io: ArviZ data, stores and reports.
    ops: small pure tensor functions.
    testing: known targets, gates and deliberately broken kernels for tests.

Example:
    >>> import pyro_geo
    >>> pyro_geo.Target.__name__
    'Target'
"""

from typing import TYPE_CHECKING

from pyro_geo._compat.tqdm import choose_bar
from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.citations import citation
    from pyro_geo.density import Layout, Target

__version__ = "0.2.0"

__all__ = ["Layout", "Target", "__version__", "citation"]

choose_bar()

__getattr__ = importer(
    globals(),
    {
        "Layout": "pyro_geo.density",
        "Target": "pyro_geo.density",
        "citation": "pyro_geo.citations",
    },
)


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
