"""The methods of the library, one line each."""

from typing import NamedTuple

__all__ = ["METHODS", "Method"]


class Method(NamedTuple):
    """One method.

    Attributes:
        name: as its paper calls it.
        answers: the question that it answers.
        names: where to start, import paths below `pyro_geo`.
        page: of the documentation, without its ending.
        source: where it was published.
    """

    name: str
    answers: str
    names: tuple[str, ...]
    page: str
    source: str


METHODS = (
    Method(
        "Batched HMC",
        "What does the posterior look like?",
        ("infer.MCMC", "infer.HMC", "infer.find_modes"),
        "hmc",
        "Hoffman, Radul and Sountsov (2021)",
    ),
    Method(
        "DiMS",
        "Which other parameters fit the data as well?",
        ("infer.DIMS", "infer.sample_minima"),
        "dims",
        "arXiv 2605.15459",
    ),
    Method(
        "Gibbs posterior",
        "How wrong can the predictions be?",
        ("infer.GibbsPosterior", "infer.certificates.certify"),
        "gibbs",
        "arXiv 2604.17219",
    ),
    Method(
        "Bounded measures",
        "What if some data, or a sensor, lie?",
        ("filtering.BoundedTracker", "distributions.BoundedMeasure"),
        "tracking",
        "arXiv 2603.13613",
    ),
    Method(
        "Hierarchical Gaussian filter",
        "How fast does somebody think that the world changes?",
        ("distributions.HGF", "filtering.hgf_filter"),
        "hgf",
        "arXiv 2605.00966",
    ),
    Method(
        "GPTD and Bayesian control",
        "What should I do, when nobody knows the dynamics?",
        ("planning.OfflinePlanner", "planning.BayesController", "gp.ExactGPTD"),
        "control",
        "Imani, Ghoreishi and Braga-Neto (2018); Engel, Mannor and Meir (2005)",
    ),
    Method(
        "DecentCEM",
        "Where is the lowest of many minima, or the best plan?",
        ("optim.DecentCEM", "planning.CEMPlanner"),
        "decent_cem",
        "arXiv 2212.08235",
    ),
    Method(
        "EpiMer",
        "How do I join posteriors or networks, and what will it cost?",
        ("summaries.merge.frechet_merge", "summaries.combine"),
        "merging",
        "arXiv 2605.26693",
    ),
    Method(
        "Selective projection decay",
        "How do I adapt a fit without losing it?",
        ("optim.SPD", "summaries.deviation_report"),
        "spd",
        "arXiv 2411.01713",
    ),
    Method(
        "Unlearning",
        "How do I remove data, and what is still remembered?",
        ("unlearning.forget", "unlearning.audit"),
        "unlearning",
        "arXiv 2604.23046",
    ),
)
