"""Pickles of results whose models are lambdas, closures or from a notebook."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle

from pyro_geo.errors import UnsupportedError

__all__ = ["dumped", "loaded"]


def dumped(owner: object) -> bytes:
    """Pickle an object's type and attributes, functions without a module included.

    Args:
        owner: the object.

    Returns:
        What :func:`loaded` reads; plain `pickle` is enough to read it.

    Raises:
        UnsupportedError: something in it does not pickle.
    """
    try:
        return cloudpickle.dumps((type(owner), vars(owner)))
    except Exception as reason:  # whatever an object of the user's may raise
        raise UnsupportedError(
            "the result cannot be pickled",
            where=type(owner).__name__,
            found=f"{type(reason).__name__}: {str(reason)[:200]}",
            expected="a model and arguments that pickle",
            todo="Keep the draws alone: get_samples(), or to_arviz().to_netcdf(path).",
        ) from reason


def loaded(content: bytes) -> Any:
    """Make an object again from what :func:`dumped` has written."""
    kind, attributes = pickle.loads(content)
    owner = kind.__new__(kind)
    vars(owner).update(attributes)
    return owner
