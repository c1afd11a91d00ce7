"""Names in the pages exist: dotted paths, words of code, files and links."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
WRITTEN = [p for p in (ROOT / "docs").glob("*.md") if p.name != "benchmarks.md"]
FOLDERS = ("tutorials", "how_to", "explanation", "reference")
INNER = [p for name in FOLDERS for p in sorted((ROOT / "docs" / name).glob("*.md"))]
PAGES = [*TOP, *sorted(WRITTEN), *INNER]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CODE = ("pyro_geo", "models", "inference", "benchmarks")
PACKAGES = {path.parent.name for path in ROOT.glob("pyro_geo/*/__init__.py")}
# Words of other libraries and of the shell, and new data of a reader.
FOREIGN = {
    *("AutoDelta", "DiscreteHMM", "LocScaleReparam", "Vindex", "param", "reparam"),
    *("SaasFullyBayesianSingleTaskGP", "compare", "from_pyro", "from_zarr", "loo"),
    *("CHANGELOG", "durations", "kill", "new_x", "y_new"),
    *(
        "TraceMeanField_ELBO",
        "GaussianHMM",
        "GaussianMRF",
        "LinearKernel",
        "pyro_sample_from_prior",
        "InducingPointKernel",
        "VariationalStrategy",
        "active_dims",
        "sgpr_diagonal_correction",
    ),
}


def text_of(page: Path) -> str:
    """The page without the lines that a diff takes away."""

    def without(block: re.Match[str]) -> str:
        return re.sub(r"^-.*\n", "", block.group(), flags=re.M)

    return re.sub(r"^```diff.*?^```", without, page.read_text(), flags=re.M | re.S)


def exists(dotted: str) -> bool:
    """Import as much of a dotted name as is a module, and look up the rest."""
    first, *rest = dotted.split(".")
    found: object = importlib.import_module(first)
    path = first
    for name in rest:
        path = f"{path}.{name}"
        if not hasattr(found, name):
            if not isinstance(found, ModuleType):
                return False
            try:
                importlib.import_module(path)
            except ImportError:
                return False
        found = getattr(found, name)
    return True


def dotted_names(text: str) -> set[str]:
    """Paths into the package, in prose, directives and imports."""
    found = set(re.findall(r"(?<![\w/.])pyro_geo(?:\.\w+)+", text))
    for start in re.findall(r"`([a-z_]+\.\w[\w.]*)", text):
        if start.split(".")[0] in PACKAGES:
            found.add(f"pyro_geo.{start.rstrip('.')}")
    for module, names in re.findall(
        r"^\+?from (pyro_geo[\w.]*) import (.+)$", text, re.M
    ):
        found |= {f"{module}.{name.split(' as ')[0]}" for name in names.split(", ")}
    return {name for name in found if not name.endswith(".md")}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_dotted_names_exist(page):
    missing = sorted(name for name in dotted_names(text_of(page)) if not exists(name))
    assert not missing


@pytest.fixture(scope="module")
def vocabulary():
    files = [p for folder in CODE for p in (ROOT / folder).rglob("*.py")]
    files += [
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        *(ROOT / "tests").glob("*.py"),
    ]
    return {w for p in files for w in re.findall(r"[A-Za-z_]\w+", p.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_words_of_code_exist(page, vocabulary):
    text = text_of(page)
    blocks = re.findall(r"^```.*?^```", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    local = {w for block in blocks for w in re.findall(r"\w+", block)}
    quoted = [
        re.sub(r'"[^"]*"|\S*/\S*', "", q) for q in re.findall(r"`([^`]+)`", prose)
    ]
    words = {w for q in quoted for w in re.findall(r"[A-Za-z_]\w+", q)}
    assert not sorted(words - local - vocabulary - FOREIGN)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_files_exist(page):
    text = re.sub(r"<[^>]*>", "", page.read_text())
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text)
    links = [x for x in links if not x.startswith("gallery/")]  # made by the build
    missing = [x for x in links if not (page.parent / x).exists()]
    folders = "|".join((*CODE, "docs"))
    files = re.findall(rf"(?<![\w/.])((?:{folders}|tests)/[\w/.]*\w)", text)
    missing += [x for x in files if not (ROOT / x).exists() and "NAME" not in x]
    assert not missing


def anchors_of(page: Path) -> set[str]:
    """What a link may name in a page: its labels, and its headings as GitHub does."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
    for heading in re.findall(r"^#{1,3} (.+)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = (f"{slug}-{i}" for i in range(1, 100))
        found.add(
            slug if slug not in found else next(x for x in same if x not in found)
        )
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_anchors_exist(page):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    targets = [(page.parent / path if path else page, name) for path, name in links]
    pages = {target for target, _ in targets if target.suffix == ".md"}
    known = {target: anchors_of(target) for target in pages if target.exists()}
    missing = [
        f"{target.name}#{name}"
        for target, name in targets
        if target in known and name not in known[target]
    ]
    assert not missing


def test_an_anchor_is_a_label_or_a_heading(tmp_path):
    page = tmp_path / "page.md"
    text = "# A `b`, c\n(here)=\n## Twice\n## Twice\n```python\n# no heading\n```\n"
    page.write_text(text)
    assert anchors_of(page) == {"a-b-c", "here", "twice", "twice-1"}
