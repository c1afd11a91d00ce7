"""Models behind names of posteriordb, in Pyro, from their published densities.

:data:`MODELS` has them by the names of their posteriors; data and reference draws come
from a local folder by :func:`pyro_geo.testing.posteriordb.load`.
"""

from pyro_geo.testing.posteriors import _others, _regressions, _series
from pyro_geo.testing.posteriors._parts import Entry

__all__ = ["MODELS", "Entry"]

MODELS: dict[str, Entry] = dict(
    sorted((_regressions.MODELS | _series.MODELS | _others.MODELS).items())
)
