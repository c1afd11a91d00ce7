"""Sphinx configuration."""

import ast
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import pyro_geo  # noqa: E402  (the checkout must win over an installed copy)

project = "pyro_geo"
author = "The pyro_geo contributors"
project_copyright = author
release = version = pyro_geo.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pyro_geo {release}"

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


def write_gallery(folder: str, title: str) -> None:
    """Make one page of a gallery folder: each file's docstring, then the file."""
    parts = [f"# {title}\n"]
    for path in sorted((ROOT / folder).glob("*.py")):
        text = path.read_text()
        about = ast.get_docstring(ast.parse(text)) or ""
        parts.append(f"## `{folder}/{path.name}`\n\n{about}\n\n```python\n{text}```\n")
    page = HERE / "gallery" / f"{folder}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(parts))


def skip_fields(
    app: object, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave the fields of named tuples to the section "Attributes" of their class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Connect the handler above; Sphinx calls this."""
    app.connect("autodoc-skip-member", skip_fields)


write_gallery("models", "Models")
write_gallery("inference", "Programs")
