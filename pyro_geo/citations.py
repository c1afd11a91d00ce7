"""BibTeX records of the methods behind a result."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from pyro_geo._works import SUMMARIES
from pyro_geo.errors import ConfigurationError

__all__ = ["check_citations", "citation", "cited_by", "cites"]

_Function = TypeVar("_Function", bound=Callable[..., object])

_RECORDS = SUMMARIES | {
    "dims": """\
@article{jacobsen2026dims,
  author        = {Jacobsen, Albert Kj{\\o}ller and Jakobsen, Leo Uhre and
                   Gegenfurtner, Johanna Marie and Arvanitidis, Georgios},
  title         = {Don't Stop Me Yet: Sampling Loss Minima via Dissipative
                   {Riemannian} Mechanics},
  year          = {2026},
  eprint        = {2605.15459},
  archivePrefix = {arXiv}
}""",
    "chees": """\
@inproceedings{hoffman2021chees,
  author    = {Hoffman, Matthew D. and Radul, Alexey and Sountsov, Pavel},
  title     = {An Adaptive-{MCMC} Scheme for Setting Trajectory Lengths in
               {Hamiltonian} {Monte} {Carlo}},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  series    = {PMLR},
  volume    = {130},
  pages     = {3907--3915},
  year      = {2021}
}""",
    "fisher": """\
@article{seyboldt2026fisher,
  author        = {Seyboldt, Adrian and Carlson, Eliot and Carpenter, Bob},
  title         = {Preconditioning {Hamiltonian} {Monte} {Carlo} by minimizing
                   {Fisher} Divergence},
  year          = {2026},
  eprint        = {2603.18845},
  archivePrefix = {arXiv}
}""",
    "psis": """\
@article{vehtari2024psis,
  author        = {Vehtari, Aki and Simpson, Daniel and Gelman, Andrew and Yao, Yuling
                   and Gabry, Jonah},
  title         = {Pareto Smoothed Importance Sampling},
  journal       = {Journal of Machine Learning Research},
  volume        = {25},
  year          = {2024},
  eprint        = {1507.02646},
  archivePrefix = {arXiv}
}""",
    "moment_matching": """\
@article{paananen2021implicitly,
  author        = {Paananen, Topi and Piironen, Juho and B{\\"u}rkner, Paul-Christian
                   and Vehtari, Aki},
  title         = {Implicitly Adaptive Importance Sampling},
  journal       = {Statistics and Computing},
  volume        = {31},
  year          = {2021},
  eprint        = {1906.08850},
  archivePrefix = {arXiv}
}""",
    "gibbs": """\
@article{wang2026gibbs,
  author        = {Wang and Yang},
  title         = {{PAC-Bayes} Bounds for {Gibbs} Posteriors via Singular Learning
                   Theory},
  year          = {2026},
  eprint        = {2604.17219},
  archivePrefix = {arXiv}
}""",
    "bounded": """\
@article{rodriguez2026bounded,
  author        = {Rodriguez, Carlos C.},
  title         = {Robust Sequential Tracking via Bounded Information Geometry and
                   Non-Parametric Field Actions},
  year          = {2026},
  eprint        = {2603.13613},
  archivePrefix = {arXiv}
}""",
    "imm": """\
@article{blom1988imm,
  author  = {Blom, Henk A. P. and Bar-Shalom, Yaakov},
  title   = {The Interacting Multiple Model Algorithm for Systems with {Markovian}
             Switching Coefficients},
  journal = {IEEE Transactions on Automatic Control},
  volume  = {33},
  number  = {8},
  pages   = {780--783},
  year    = {1988},
  doi     = {10.1109/9.1299}
}""",
    "hgf": """\
@article{mathys2014hgf,
  author  = {Mathys, Christoph D. and Lomakina, Ekaterina I. and Daunizeau, Jean and
             Iglesias, Sandra and Brodersen, Kay H. and Friston, Karl J. and
             Stephan, Klaas E.},
  title   = {Uncertainty in perception and the {Hierarchical} {Gaussian} {Filter}},
  journal = {Frontiers in Human Neuroscience},
  volume  = {8},
  pages   = {825},
  year    = {2014},
  doi     = {10.3389/fnhum.2014.00825}
}""",
    "ghgf": """\
@article{weber2023ghgf,
  author        = {Weber, Lilian Aline and Waade, Peter Thestrup and
                   Legrand, Nicolas and M{\\o}ller, Anna Hedvig and
                   Stephan, Klaas Enno and Mathys, Christoph},
  title         = {The generalized {Hierarchical} {Gaussian} {Filter}},
  year          = {2023},
  eprint        = {2305.10937},
  archivePrefix = {arXiv}
}""",
    "unbounded_hgf": """\
@article{robust2026hgf,
  title         = {Robust volatility updates for {Hierarchical} {Gaussian}
                   {Filtering}},
  year          = {2026},
  eprint        = {2605.00966},
  archivePrefix = {arXiv}
}""",
    "bayes_control": """\
@inproceedings{imani2018control,
  author    = {Imani, Mahdi and Ghoreishi, Seyede Fatemeh and
               Braga-Neto, Ulisses M.},
  title     = {{Bayesian} Control of Large {MDPs} with Unknown Dynamics in
               Data-Poor Environments},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {31},
  year      = {2018}
}""",
    "icem": """\
@inproceedings{pinneri2020icem,
  author    = {Pinneri, Cristina and Sawant, Shambhuraj and Blaes, Sebastian and
               Achterhold, Jan and Stueckler, Joerg and Rolinek, Michal and
               Martius, Georg},
  title     = {Sample-efficient Cross-Entropy Method for Real-time Planning},
  booktitle = {Conference on Robot Learning},
  year      = {2020},
  eprint    = {2008.06389},
  archivePrefix = {arXiv}
}""",
    "mppi": """\
@inproceedings{williams2017mppi,
  author    = {Williams, Grady and Wagener, Nolan and Goldfain, Brian and
               Drews, Paul and Rehg, James M. and Boots, Byron and
               Theodorou, Evangelos A.},
  title     = {Information Theoretic {MPC} for Model-Based Reinforcement Learning},
  booktitle = {IEEE International Conference on Robotics and Automation},
  pages     = {1714--1721},
  year      = {2017}
}""",
    "gptd": """\
@inproceedings{engel2003bayes,
  author    = {Engel, Yaakov and Mannor, Shie and Meir, Ron},
  title     = {{Bayes} Meets {Bellman}: The {Gaussian} Process Approach to Temporal
               Difference Learning},
  booktitle = {International Conference on Machine Learning},
  pages     = {154--161},
  year      = {2003}
}

@inproceedings{engel2005reinforcement,
  author    = {Engel, Yaakov and Mannor, Shie and Meir, Ron},
  title     = {Reinforcement Learning with {Gaussian} Processes},
  booktitle = {International Conference on Machine Learning},
  pages     = {201--208},
  year      = {2005}
}""",
    "decent_cem": """\
@inproceedings{zhang2022decentcem,
  author        = {Zhang, Zichen and Jin, Jun and Jagersand, Martin and Luo, Jun and
                   Schuurmans, Dale},
  title         = {A Simple Decentralized Cross-Entropy Method},
  booktitle     = {Advances in Neural Information Processing Systems},
  volume        = {35},
  year          = {2022},
  eprint        = {2212.08235},
  archivePrefix = {arXiv}
}""",
    "cem_gmm": """\
@inproceedings{okada2019vimpc,
  author        = {Okada, Masashi and Taniguchi, Tadahiro},
  title         = {Variational Inference {MPC} for {Bayesian} Model-based
                   Reinforcement Learning},
  booktitle     = {Conference on Robot Learning},
  year          = {2019},
  eprint        = {1907.04202},
  archivePrefix = {arXiv}
}""",
    "spd": """\
@inproceedings{tian2024spd,
  author        = {Tian, Junjiao and Huang, Chengyue and Kira, Zsolt},
  title         = {Rethinking Weight Decay for Robust Fine-Tuning of Foundation
                   Models},
  booktitle     = {Advances in Neural Information Processing Systems},
  volume        = {37},
  year          = {2024},
  eprint        = {2411.01713},
  archivePrefix = {arXiv}
}""",
    "certified_removal": """\
@inproceedings{guo2020certified,
  author        = {Guo, Chuan and Goldstein, Tom and Hannun, Awni and
                   van der Maaten, Laurens},
  title         = {Certified Data Removal from Machine Learning Models},
  booktitle     = {International Conference on Machine Learning},
  year          = {2020},
  eprint        = {1911.03030},
  archivePrefix = {arXiv}
}""",
    "certified_finetuning": """\
@inproceedings{koloskova2025certified,
  author        = {Koloskova, Anastasia and Allouah, Youssef and Jha, Animesh and
                   Guerraoui, Rachid and Koyejo, Sanmi},
  title         = {Certified Unlearning for Neural Networks},
  booktitle     = {International Conference on Machine Learning},
  year          = {2025},
  eprint        = {2506.06985},
  archivePrefix = {arXiv}
}""",
    "subspace_noise": """\
@article{dolgova2026sequential,
  author        = {Dolgova, Polina and Stich, Sebastian U.},
  title         = {Sequential Subspace Noise Injection Prevents Accuracy Collapse in
                   Certified Unlearning},
  year          = {2026},
  eprint        = {2601.05134},
  archivePrefix = {arXiv}
}""",
    "gaussian_mechanism": """\
@inproceedings{balle2018improving,
  author        = {Balle, Borja and Wang, Yu-Xiang},
  title         = {Improving the {Gaussian} Mechanism for Differential Privacy},
  booktitle     = {International Conference on Machine Learning},
  year          = {2018},
  eprint        = {1805.06530},
  archivePrefix = {arXiv}
}""",
    "shifted_interpolation": """\
@inproceedings{bok2024shifted,
  author        = {Bok, Jinho and Su, Weijie J. and Altschuler, Jason M.},
  title         = {Shifted Interpolation for Differential Privacy},
  booktitle     = {International Conference on Machine Learning},
  year          = {2024},
  eprint        = {2403.00278},
  archivePrefix = {arXiv}
}""",
    "shape_of_memory": """\
@article{stewart2026shape,
  author        = {Stewart, Kennon},
  title         = {Shape of Memory: a Geometric Analysis of Machine Unlearning in
                   Second-Order Optimizers},
  year          = {2026},
  eprint        = {2604.23046},
  archivePrefix = {arXiv}
}""",
    "pyro": """\
@article{bingham2019pyro,
  author  = {Bingham, Eli and Chen, Jonathan P. and Jankowiak, Martin and
             Obermeyer, Fritz and Pradhan, Neeraj and Karaletsos, Theofanis and
             Singh, Rohit and Szerlip, Paul and Horsfall, Paul and Goodman, Noah D.},
  title   = {Pyro: Deep Universal Probabilistic Programming},
  journal = {Journal of Machine Learning Research},
  volume  = {20},
  number  = {28},
  pages   = {1--6},
  year    = {2019}
}""",
    "arviz": """\
@article{kumar2019arviz,
  author  = {Kumar, Ravin and Carroll, Colin and Hartikainen, Ari and
             Martin, Osvaldo},
  title   = {{ArviZ} a unified library for exploratory analysis of {Bayesian}
             models in {Python}},
  journal = {Journal of Open Source Software},
  volume  = {4},
  number  = {33},
  pages   = {1143},
  year    = {2019},
  doi     = {10.21105/joss.01143}
}""",
}

# Whatever was computed, it went through these two.
_ALWAYS = ("pyro", "arviz")


def citation(obj: object = None) -> str:
    """BibTeX of the methods that an object used.

    An object names its methods in an attribute ``citations``, a tuple of keys of known
    records, or of whole records that begin with ``@``. A result without one is asked
    for its ``kernel``, and a table or data set for the entry ``citations`` of its
    ``attrs``. Pyro and ArviZ come last.

    Args:
        obj: a kernel, a result, a class of either, or a function that names its
            method; None for the library itself.

    Returns:
        The records, an empty line between them, each once. A method that has no
        record is a :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> class Kernel:
        ...     citations = ("dims",)
        >>> [line for line in citation(Kernel()).splitlines() if line[:1] == "@"]
        ['@article{jacobsen2026dims,', '@article{bingham2019pyro,',
         '@article{kumar2019arviz,']
    """
    keys = list(dict.fromkeys([*cited_by(obj), *_ALWAYS]))
    check_citations(f"{type(obj).__name__}.citations", keys)
    return "\n\n".join(_RECORDS.get(key, key) for key in keys)


def check_citations(where: str, citations: str | Iterable[str]) -> None:
    """Refuse a citation that has no record.

    Args:
        where: the attribute, for the message.
        citations: keys of known records, or whole BibTeX records.

    Raises:
        ConfigurationError: a key is unknown.

    Example:
        >>> check_citations("HMC.citations", ("chees", "@misc{me2026, title={Mine}}"))
    """
    keys = [citations] if isinstance(citations, str) else citations
    unknown = [key for key in keys if key not in _RECORDS and key[:1] != "@"]
    if unknown:
        raise ConfigurationError(
            "unknown citation key",
            where=where,
            found=unknown,
            expected=f"keys among {sorted(_RECORDS)}, or BibTeX records",
            todo="Put the whole BibTeX record, which begins with '@', in place of the "
            "key.",
        )


def cites(*keys: str) -> Callable[[_Function], _Function]:
    """Decorate a function with the works it follows, where its result cannot name them.

    Args:
        *keys: of known records.

    Returns:
        A decorator, which gives the function its attribute ``citations``.

    Example:
        >>> @cites("consensus")
        ... def average(draws):
        ...     return sum(draws) / len(draws)
        >>> citation(average).splitlines()[0]
        '@article{scott2016consensus,'
    """
    check_citations("argument keys", keys)

    def named(function: _Function) -> _Function:
        vars(function)["citations"] = keys
        return function

    return named


def cited_by(obj: object) -> tuple[str, ...]:
    """Keys of the works that an object names, as in :func:`citation`."""
    keys = getattr(obj, "citations", None)
    if keys is None:
        keys = getattr(obj, "attrs", {}).get("citations")
    if keys is None:
        keys = getattr(getattr(obj, "kernel", None), "citations", ())
    return (keys,) if isinstance(keys, str) else tuple(keys)
