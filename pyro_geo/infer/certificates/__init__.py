"""PAC-Bayes certificates of what is deployed, however it was sampled."""

from pyro_geo.infer.certificates import bounds, learning
from pyro_geo.infer.certificates.certificate import Certificate
from pyro_geo.infer.certificates.certify import certify
from pyro_geo.infer.certificates.exact import certify_exact
from pyro_geo.infer.certificates.guide import certify_guide
from pyro_geo.infer.certificates.holdout import certify_holdout, certify_plugin
from pyro_geo.infer.certificates.ledger import Ledger
from pyro_geo.infer.certificates.prior_split import check_disjoint, split_prior
from pyro_geo.infer.gibbs.codebook import Codebook

__all__ = [
    "Certificate",
    "Codebook",
    "Ledger",
    "bounds",
    "certify",
    "certify_exact",
    "certify_guide",
    "certify_holdout",
    "certify_plugin",
    "check_disjoint",
    "learning",
    "split_prior",
]
