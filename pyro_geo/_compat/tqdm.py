"""tqdm's choice of a bar, which Pyro makes when it is imported.

Seen with tqdm 4.70: in a Jupyter kernel without ipywidgets, importing `tqdm.auto` warns
that IProgress was not found and falls back to text. Text will do.
"""

import sys
import warnings
from importlib import import_module

__all__ = ["choose_bar"]


def choose_bar() -> None:
    """Let tqdm choose its bar in a notebook, before Pyro does, without a warning."""
    if "ipykernel" not in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import_module("tqdm.auto")
