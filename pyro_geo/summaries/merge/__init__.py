"""Merging of models: one network in place of several, with a forecast of its cost."""

from pyro_geo._lazy import importer

__all__: list[str] = []

__getattr__ = importer(globals(), {})
