"""Deletion of data from posteriors and optimisers, and audits of what is left."""

from pyro_geo._lazy import importer

__all__: list[str] = []

__getattr__ = importer(globals(), {})
