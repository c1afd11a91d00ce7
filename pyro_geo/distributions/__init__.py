"""Distributions beside Pyro's own."""

from pyro_geo.distributions.bounded.constraint import (
    EllipsoidBall,
    EllipsoidTransform,
    ellipsoid_ball,
)
from pyro_geo.distributions.bounded.elliptical import BoundedElliptical
from pyro_geo.distributions.bounded.flat import BoundedFlat
from pyro_geo.distributions.bounded.laplace import BoundedLaplace
from pyro_geo.distributions.bounded.level import BoundedLevelSet
from pyro_geo.distributions.bounded.likelihood import (
    BoundedLikelihood,
    capped_factor,
    density_power_factor,
    tempered,
)
from pyro_geo.distributions.bounded.measure import BoundedMeasure
from pyro_geo.distributions.bounded.normal import (
    BoundedMultivariateNormal,
    BoundedNormal,
)
from pyro_geo.distributions.bounded.radial import Radial
from pyro_geo.distributions.bounded.reparam import BallReparam, RadialGaussianReparam
from pyro_geo.distributions.bounded.student import (
    BoundedMultivariateStudentT,
    BoundedStudentT,
)
from pyro_geo.distributions.bounded.symmetric import BoundedSymmetric
from pyro_geo.distributions.bounded.univariate import BoundedGamma, BoundedUnivariate
from pyro_geo.distributions.hgf import HGF

__all__ = [
    "HGF",
    "BallReparam",
    "BoundedElliptical",
    "BoundedFlat",
    "BoundedGamma",
    "BoundedLaplace",
    "BoundedLevelSet",
    "BoundedLikelihood",
    "BoundedMeasure",
    "BoundedMultivariateNormal",
    "BoundedMultivariateStudentT",
    "BoundedNormal",
    "BoundedStudentT",
    "BoundedSymmetric",
    "BoundedUnivariate",
    "EllipsoidBall",
    "EllipsoidTransform",
    "Radial",
    "RadialGaussianReparam",
    "capped_factor",
    "density_power_factor",
    "ellipsoid_ball",
    "tempered",
]
