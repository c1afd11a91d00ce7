"""BibTeX records of the works behind summaries of posteriors and merging."""

__all__ = ["SUMMARIES"]

SUMMARIES = {
    "epimer": """\
@inproceedings{lu2026merging,
  author        = {Lu and Bhaskar and Axelrod and Tolstaya and Emrich},
  title         = {Model Merging on Loss Landscape: A Geometry Perspective},
  booktitle     = {Findings of the {IEEE/CVF} Conference on Computer Vision and
                   Pattern Recognition},
  year          = {2026},
  eprint        = {2605.26693},
  archivePrefix = {arXiv}
}""",
    "consensus": """\
@article{scott2016consensus,
  author  = {Scott, Steven L. and Blocker, Alexander W. and Bonassi, Fernando V. and
             Chipman, Hugh A. and George, Edward I. and McCulloch, Robert E.},
  title   = {{Bayes} and big data: the consensus {Monte} {Carlo} algorithm},
  journal = {International Journal of Management Science and Engineering Management},
  volume  = {11},
  number  = {2},
  pages   = {78--88},
  year    = {2016}
}""",
    "barycenter": """\
@article{alvarez2016barycenter,
  author  = {{\\'A}lvarez-Esteban, Pedro C. and del Barrio, Eustasio and
             Cuesta-Albertos, Juan A. and Matr{\\'a}n, Carlos},
  title   = {A fixed-point approach to barycenters in {Wasserstein} space},
  journal = {Journal of Mathematical Analysis and Applications},
  volume  = {441},
  number  = {2},
  pages   = {744--762},
  year    = {2016}
}""",
    "expected_hessian": """\
@article{opper2009variational,
  author  = {Opper, Manfred and Archambeau, C{\\'e}dric},
  title   = {The Variational {Gaussian} Approximation Revisited},
  journal = {Neural Computation},
  volume  = {21},
  number  = {3},
  pages   = {786--792},
  year    = {2009}
}""",
    "conflict": """\
@article{presanis2013conflict,
  author  = {Presanis, Anne M. and Ohlssen, David and Spiegelhalter, David J. and
             De Angelis, Daniela},
  title   = {Conflict Diagnostics in Directed Acyclic Graphs, with Applications in
             {Bayesian} Evidence Synthesis},
  journal = {Statistical Science},
  volume  = {28},
  number  = {3},
  pages   = {376--397},
  year    = {2013}
}""",
    "ledoit_wolf": """\
@article{ledoit2004covariance,
  author  = {Ledoit, Olivier and Wolf, Michael},
  title   = {A well-conditioned estimator for large-dimensional covariance matrices},
  journal = {Journal of Multivariate Analysis},
  volume  = {88},
  number  = {2},
  pages   = {365--411},
  year    = {2004}
}""",
    "oas": """\
@article{chen2010shrinkage,
  author  = {Chen, Yilun and Wiesel, Ami and Eldar, Yonina C. and Hero, Alfred O.},
  title   = {Shrinkage Algorithms for {MMSE} Covariance Estimation},
  journal = {IEEE Transactions on Signal Processing},
  volume  = {58},
  number  = {10},
  pages   = {5016--5029},
  year    = {2010}
}""",
    "average": """\
@inproceedings{wortsman2022soups,
  author        = {Wortsman, Mitchell and Ilharco, Gabriel and Gadre, Samir Yitzhak
                   and Roelofs, Rebecca and Gontijo-Lopes, Raphael and Morcos, Ari S.
                   and Namkoong, Hongseok and Farhadi, Ali and Carmon, Yair and
                   Kornblith, Simon and Schmidt, Ludwig},
  title         = {Model soups: averaging weights of multiple fine-tuned models
                   improves accuracy without increasing inference time},
  booktitle     = {International Conference on Machine Learning},
  year          = {2022},
  eprint        = {2203.05482},
  archivePrefix = {arXiv}
}""",
    "task_arithmetic": """\
@inproceedings{ilharco2023editing,
  author        = {Ilharco, Gabriel and Ribeiro, Marco Tulio and Wortsman, Mitchell
                   and Gururangan, Suchin and Schmidt, Ludwig and Hajishirzi, Hannaneh
                   and Farhadi, Ali},
  title         = {Editing Models with Task Arithmetic},
  booktitle     = {International Conference on Learning Representations},
  year          = {2023},
  eprint        = {2212.04089},
  archivePrefix = {arXiv}
}""",
    "ties": """\
@inproceedings{yadav2023ties,
  author        = {Yadav, Prateek and Tam, Derek and Choshen, Leshem and Raffel, Colin
                   and Bansal, Mohit},
  title         = {{TIES-Merging}: Resolving Interference When Merging Models},
  booktitle     = {Advances in Neural Information Processing Systems},
  year          = {2023},
  eprint        = {2306.01708},
  archivePrefix = {arXiv}
}""",
    "dare": """\
@inproceedings{yu2024dare,
  author        = {Yu, Le and Yu, Bowen and Yu, Haiyang and Huang, Fei and Li, Yongbin},
  title         = {Language Models are Super {Mario}: Absorbing Abilities from
                   Homologous Models as a Free Lunch},
  booktitle     = {International Conference on Machine Learning},
  year          = {2024},
  eprint        = {2311.03099},
  archivePrefix = {arXiv}
}""",
    "fisher_merging": """\
@inproceedings{matena2022fisher,
  author        = {Matena, Michael S. and Raffel, Colin A.},
  title         = {Merging Models with {Fisher}-Weighted Averaging},
  booktitle     = {Advances in Neural Information Processing Systems},
  year          = {2022},
  eprint        = {2111.09832},
  archivePrefix = {arXiv}
}""",
    "regmean": """\
@inproceedings{jin2023regmean,
  author        = {Jin, Xisen and Ren, Xiang and Preotiuc-Pietro, Daniel and Cheng,
                   Pengxiang},
  title         = {Dataless Knowledge Fusion by Merging Weights of Language Models},
  booktitle     = {International Conference on Learning Representations},
  year          = {2023},
  eprint        = {2212.09849},
  archivePrefix = {arXiv}
}""",
    "regmean_pp": """\
@article{nguyen2025regmean,
  author        = {Nguyen, The-Hai and Huu-Tien, Dang and Suzuki, Takeshi and Nguyen,
                   Le-Minh},
  title         = {{RegMean++}: Enhancing Effectiveness and Generalization of
                   Regression Mean for Model Merging},
  year          = {2025},
  eprint        = {2508.03121},
  archivePrefix = {arXiv}
}""",
    "tsv_merge": """\
@inproceedings{gargiulo2025tsv,
  author        = {Gargiulo, Antonio Andrea and Crisostomi, Donato and Bucarelli,
                   Maria Sofia and Scardapane, Simone and Silvestri, Fabrizio and
                   Rodol{\\`a}, Emanuele},
  title         = {Task Singular Vectors: Reducing Task Interference in Model Merging},
  booktitle     = {{IEEE/CVF} Conference on Computer Vision and Pattern Recognition},
  year          = {2025},
  eprint        = {2412.00081},
  archivePrefix = {arXiv}
}""",
    "iso": """\
@inproceedings{marczak2025isotropic,
  author        = {Marczak, Daniel and Magistri, Simone and Cygert, Sebastian and
                   Twardowski, Bart{\\l}omiej and Bagdanov, Andrew D. and van de
                   Weijer, Joost},
  title         = {No Task Left Behind: Isotropic Model Merging with Common and
                   Task-Specific Subspaces},
  booktitle     = {International Conference on Machine Learning},
  year          = {2025},
  eprint        = {2502.04959},
  archivePrefix = {arXiv}
}""",
    "wudi": """\
@inproceedings{cheng2025wudi,
  author        = {Cheng, Runxi and Xiong, Feng and Wei, Yongxian and Zhu, Wanyun and
                   Yuan, Chun},
  title         = {Whoever Started the Interference Should End It: Guiding Data-Free
                   Model Merging via Task Vectors},
  booktitle     = {International Conference on Machine Learning},
  year          = {2025},
  eprint        = {2503.08099},
  archivePrefix = {arXiv}
}""",
    "larv": """\
@article{wang2026larv,
  author        = {Wang and others},
  title         = {{LARV}: Data-Free Layer-wise Adaptive Rescaling Veneer for Model
                   Merging},
  year          = {2026},
  eprint        = {2602.09413},
  archivePrefix = {arXiv}
}""",
}
