"""Cross-entropy searches, and descent and Newton steps of many starts at once."""

from pyro_geo.optim.cem import CEM, CEMGMM, CEMResult, DecentCEM

__all__ = ["CEM", "CEMGMM", "CEMResult", "DecentCEM"]
