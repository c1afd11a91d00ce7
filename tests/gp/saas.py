"""The SAAS file of the gallery, loaded as a module."""

import importlib.util
from pathlib import Path
from types import ModuleType

from pyro_geo.density import Target

FILE = Path(__file__).parents[2] / "models" / "saas_gp.py"


def load_saas() -> ModuleType:
    spec = importlib.util.spec_from_file_location("saas_gp", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saas_target() -> Target:
    """The model on its data, in the default dtype."""
    module = load_saas()
    return Target.from_model(module.model, *module.data(), compile=False)
