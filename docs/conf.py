"""Sphinx configuration."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jupytext

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]  # the checkout wins over an installed copy
os.environ["PYTHONPATH"] = str(ROOT)  # in the kernels of the notebooks too

import gallery  # noqa: E402

import pyro_geo  # noqa: E402

project = "pyro_geo"
author = "The pyro_geo contributors"
project_copyright = author
release = version = pyro_geo.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_design",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pyro_geo {release}"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_extra_path = ["_build/notebooks"]

# What the build has run is kept for the sources that it was run with.
KEPT = HERE / "_build" / "kept" / gallery.digest()
nb_execution_mode = "cache"
nb_execution_cache_path = str(KEPT / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # nothing from the network

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Shapes and names stand in single backticks in docstrings.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Inventories come over the network, and one that cannot be reached is a warning, hence
# an error. Cross-references into other projects are therefore asked for.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "pyro": ("https://docs.pyro.ai/en/stable", None),
    "gpytorch": ("https://docs.gpytorch.ai/en/stable", None),
    "arviz": ("https://python.arviz.org/en/stable", None),
}
if os.environ.get("PYRO_GEO_DOCS_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")


def write_notebooks(folder: Path) -> None:
    """Write each tutorial as a notebook without outputs, to be downloaded and run."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tutorials").mkdir(parents=True)
    for page in (HERE / "tutorials").glob("*.md"):
        notebook = jupytext.read(page)
        jupytext.write(notebook, folder / "tutorials" / f"{page.stem}.ipynb")


def link_notebook(app: object, docname: str, source: list[str]) -> None:
    """Put a link to the notebook under the title of a tutorial."""
    if docname.startswith("tutorials/"):
        name = docname.partition("/")[2]
        link = f'<a href="{name}.ipynb" download>a notebook</a>'
        line = f"This page is also {link}, which runs from top to bottom."
        title = r"^# .*\n"
        source[0] = re.sub(title, rf"\g<0>\n{line}\n", source[0], count=1, flags=re.M)


def write_gallery(app: Any, config: Any) -> None:
    """Write the pages of the gallery; `-D gallery_run=0` runs nothing for them."""
    gallery.build(HERE / "gallery", KEPT / "gallery", run=config.gallery_run)


def skip_fields(
    app: object, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave the fields of named tuples to the section "Attributes" of their class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Connect the handler above; Sphinx calls this."""
    app.add_config_value("gallery_run", True, "env", bool)
    app.connect("config-inited", write_gallery)
    app.connect("source-read", link_notebook)
    app.connect("autodoc-skip-member", skip_fields)


write_notebooks(HERE / "_build" / "notebooks")
