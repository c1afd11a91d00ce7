"""How pyhgf, a peer of the filters, is loaded."""

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["pyhgf_module"]


def pyhgf_module(name: str) -> Any:
    """Import a module of pyhgf 0.2.12 beside a jaxlib that is newer than it knows.

    Args:
        name: of the module.

    Returns:
        The module.
    """
    jax: Any = importlib.import_module("jax")
    # a type for annotations that pyhgf looks up where older versions of jaxlib had it
    older = ModuleType("jaxlib.xla_extension")
    vars(older)["PjitFunction"] = type(jax.jit(lambda x: x))
    sys.modules.setdefault(older.__name__, older)
    return importlib.import_module(name)
