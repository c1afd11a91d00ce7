"""The reader on a folder of its own, and every model against the published draws."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger
from scipy import stats

from pyro_geo.density import Target
from pyro_geo.errors import CheckpointError, ConfigurationError
from pyro_geo.testing import posteriordb
from pyro_geo.testing.gates import student_limit
from pyro_geo.testing.posteriordb import POSTERIORS, folder, latent_sites, load

HERE = folder()
needs_database = pytest.mark.skipif(
    HERE is None, reason="no posteriordb folder; set PDB_PATH to one"
)

# Probability that all models right would fail any comparison of this file.
FALSE_ALARM = 1e-2
BATCHES = 100  # of neighbouring draws; their means are independent whatever is inside
COMPARISONS = 4 * 74  # of each of the coordinates of all posteriors
LIMIT = student_limit(BATCHES - 1, FALSE_ALARM / COMPARISONS)

LYNX = "hudson_lynx_hare-lotka_volterra"


# -- the reader -----------------------------------------------------------------------

COLUMNS = ["alpha", "beta[1]", "beta[2]", "sigma"]
DATA = {"T": 6, "K": 2, "y": [1, 2, 3, 5, 8, 13]}


def write(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix != ".zip":
        file.write_text(json.dumps(content))
        return
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(file.stem, json.dumps(content))


def draws(columns=COLUMNS):
    """Two chains of three draws, every number another one."""
    return [
        {name: [100 * c + 10 * k + d for d in range(3)] for k, name in enumerate(names)}
        for c, names in enumerate([columns, columns[::-1]])
    ]


@pytest.fixture
def database(tmp_path):
    """A posteriordb folder with one posterior."""
    root = tmp_path / "shared" / "posteriordb" / "posterior_database"
    record = {
        "name": "arK-arK",
        "model_name": "arK",
        "data_name": "short",
        "reference_posterior_name": "few",
        "dimensions": {"alpha": 1, "beta": 2, "sigma": 1},
    }
    write(root / "posteriors" / "arK-arK.json", record)
    write(root / "data" / "data" / "short.json.zip", DATA)
    write(reference_file(root), draws())
    return root


def reference_file(root: Path) -> Path:
    return root / "reference_posteriors" / "draws" / "draws" / "few.json.zip"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_posterior_is_read_by_its_names(database, dtype):
    posterior = load("arK-arK", dtype=dtype, path=database)
    lagged, y = posterior.args
    assert y.tolist() == [3, 5, 8, 13]
    assert lagged.tolist() == [[2, 1], [3, 2], [5, 3], [8, 5]]
    assert {value.dtype for value in (lagged, y)} == {dtype}
    reference = posterior.reference
    assert {name: tuple(v.shape) for name, v in reference.items()} == {
        "alpha": (2, 3),
        "beta": (2, 3, 2),
        "sigma": (2, 3),
    }
    assert {value.dtype for value in reference.values()} == {dtype}
    assert reference["alpha"][0].tolist() == [0, 1, 2]
    # the second chain has its columns the other way round
    assert reference["beta"][1].tolist() == [[120, 110], [121, 111], [122, 112]]
    assert latent_sites(posterior) == reference


def test_columns_of_a_matrix_go_to_their_places(database):
    columns = ["m[2,1]", "m[1,1]", "m[1,2]", "m[2,2]", "m[1,3]", "m[2,3]"]
    write(reference_file(database), draws(columns)[:1])
    record = json.loads((database / "posteriors" / "arK-arK.json").read_text())
    write(database / "posteriors" / "arK-arK.json", record | {"dimensions": {"m": 6}})
    matrix = load("arK-arK", path=database).reference["m"]
    assert matrix.shape == (1, 3, 2, 3)
    assert matrix[0, 2].tolist() == [[12, 22, 42], [2, 32, 52]]


def test_the_folder_is_named_or_lies_beside_the_repository(
    database, tmp_path, monkeypatch
):
    shared = database.parent
    monkeypatch.setenv("PDB_PATH", str(database))
    assert folder() == database
    monkeypatch.setenv("PDB_PATH", str(shared))
    assert folder() == shared
    assert load("arK-arK").reference["alpha"].shape == (2, 3)
    monkeypatch.setenv("PDB_PATH", str(tmp_path / "nowhere"))
    assert folder() is None
    monkeypatch.delenv("PDB_PATH")
    module = tmp_path / "repository" / "pyro_geo" / "testing" / "posteriordb.py"
    monkeypatch.setattr(posteriordb, "__file__", str(module))
    assert folder() == shared
    monkeypatch.setattr(posteriordb, "__file__", "/a/b/c/d.py")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert folder() == shared
    monkeypatch.chdir(shared)
    assert folder() is None


def test_a_missing_folder_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PDB_PATH", str(tmp_path))
    with pytest.raises(CheckpointError, match="PDB_PATH.*found nothing.*Point PDB_PAT"):
        load("arK-arK")
    with pytest.raises(CheckpointError, match="no posteriordb folder.*elsewhere"):
        load("arK-arK", path=tmp_path / "elsewhere")


def test_an_unknown_name_lists_the_known_ones(database):
    with pytest.raises(ConfigurationError, match=r"'arK'.*garch-garch11"):
        load("arK", path=database)


def damage_record(root):
    (root / "posteriors" / "arK-arK.json").unlink()


def damage_data(root):
    (root / "data" / "data" / "short.json.zip").write_bytes(b"no archive")


def damage_columns(root):
    first, second = draws()
    del second["beta[2]"]
    write(reference_file(root), [first, second])


def damage_lengths(root):
    first, second = draws()
    second["alpha"].append(1)
    write(reference_file(root), [first, second])


def damage_names(root):
    write(reference_file(root), draws(["alpha", "beta.1", "beta.2", "sigma"]))


def damage_dimensions(root):
    write(reference_file(root), draws(["alpha", "beta[1]", "beta[2]", "beta[3]"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_record, "arK-arK.json.*No such file"),
        (damage_data, "short.json.zip.*not a zip file"),
        (damage_columns, r"few.json.zip.*beta\[2\]"),
        (damage_lengths, "few.json.zip.*the same columns"),
        (damage_names, r"few.json.zip.*beta\.1"),
        (damage_dimensions, "few.json.zip.*'beta': 3.*'beta': 2"),
    ],
)
def test_a_damaged_file_is_named(database, damage, message):
    damage(database)
    with pytest.raises(CheckpointError, match=message):
        load("arK-arK", path=database)


# -- the models -----------------------------------------------------------------------


def published(name, model=None):
    """A target and the published draws as positions, `(chains, draws, dim)`."""
    posterior = load(name)
    model = model or posterior.model
    target = Target.from_model(model, *posterior.args, dtype=torch.float64)
    return target, target.unconstrain(latent_sites(posterior))


def score_errors(target, q):
    r"""Largest standardised error of two identities of the score :math:`g`.

    At draws from the target :math:`E\,g = 0`, which a shift breaks, and
    :math:`E\,(q - E q)\,g^T = -I`, which a wrong scale breaks. No sampler is needed,
    only draws of somebody else's. Each is looked at along the coordinates and, as
    strong correlation hides a shift there, in :math:`\Sigma g` with the covariance of
    the draws: the shift and the change of variance that the fault amounts to.
    """
    flat = q.flatten(0, 1)
    mapped = target.with_rung("mapped")
    g = torch.cat([mapped.value_and_grad(part)[1] for part in flat.split(500)])
    moved, covariance = flat - flat.mean(0), flat.T.cov()
    natural = g @ covariance
    scale = [moved * g + 1, moved * natural + covariance.diagonal()]
    means = torch.cat([g, natural, *scale], -1).unflatten(0, (BATCHES, -1)).mean(1)
    errors = means.std(0) / math.sqrt(BATCHES)
    return float((means.mean(0) / errors).abs().max())


@needs_database
def test_the_comparisons_are_as_many_as_the_rate_is_divided_by():
    assert 4 * sum(published(name)[0].dim for name in POSTERIORS) == COMPARISONS


@needs_database
@pytest.mark.parametrize("name", POSTERIORS)
def test_the_published_draws_are_from_our_density(name):
    assert score_errors(*published(name)) < LIMIT


# Priors as published; a site that is not named is flat. Most are too wide for ten
# thousand draws to tell them from a flat one, so they are held against their formulas.
RATES = stats.norm([1, 0.05, 1, 0.05], [0.5, 0.05, 0.5, 0.05])
PRIORS: dict[str, dict[str, Any]] = {
    "arK-arK": {
        "alpha": stats.norm(0, 10),
        "beta": stats.norm(0, 10),
        "sigma": stats.cauchy(0, 2.5),
    },
    "eight_schools-eight_schools_noncentered": {
        "mu": stats.norm(0, 5),
        "tau": stats.cauchy(0, 5),
        "theta_trans": stats.norm(0, 1),
    },
    "garch-garch11": {"alpha1": stats.beta(1, 2)},
    "gp_pois_regr-gp_regr": {
        "rho": stats.gamma(25, scale=1 / 4),
        "alpha": stats.norm(0, 2),
        "sigma": stats.norm(0, 1),
    },
    "hmm_example-hmm_example": {"mu": stats.norm([3, 10], 1)},
    LYNX: {
        "theta": RATES,
        "sigma": stats.lognorm(1, scale=math.exp(-1)),
        "z_init": stats.lognorm(1, scale=10),
    },
    "kidiq-kidscore_interaction": {"sigma": stats.cauchy(0, 2.5)},
    "kidiq-kidscore_momiq": {"sigma": stats.cauchy(0, 2.5)},
    "kilpisjarvi_mod-kilpisjarvi": {
        "alpha": stats.norm(9.31290322580645, 100),
        "beta": stats.norm(0, 0.0333333333333333),
    },
    "low_dim_gauss_mix-low_dim_gauss_mix": {
        "mu": stats.norm(0, 2),
        "sigma": stats.norm(0, 2),
        "theta": stats.beta(5, 5),
    },
    "sblri-blr": {"beta": stats.norm(0, 10), "sigma": stats.norm(0, 10)},
}


@needs_database
@pytest.mark.parametrize("name", POSTERIORS)
def test_priors_are_the_published_ones(name):
    target, q = published(name)
    rows = q[:2, 0]
    sites = target.constrain(rows)
    density: Any = target.density
    found, base = (density.site_log_probs(row, target.data) for row in rows)
    for site, value in sites.items():
        prior = PRIORS.get(name, {}).get(site)
        wanted = 0.0  # up to the constant that cutting and folding leave
        if prior is not None:
            first, second = (prior.logpdf(v).sum() for v in value.numpy())
            wanted = first - second
        assert float(found[site] - base[site]) == pytest.approx(wanted, abs=1e-9), site


@needs_database
@pytest.mark.parametrize("name", POSTERIORS)
def test_sites_carry_the_published_names(name):
    posterior = load(name)
    target, q = published(name)
    sites = target.constrain(q[:, :5]) | {
        site: value.unflatten(0, (10, 5))
        for site, value in target.deterministics(q[:, :5].flatten(0, 1)).items()
    }
    for parameter, value in posterior.reference.items():
        assert value.shape[:2] == (10, 1000)
        torch.testing.assert_close(sites[parameter], value[:, :5])


@needs_database
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == LYNX else ()) for n in POSTERIORS],
)
def test_models_are_mapped_and_traced(name):
    target, q = published(name)  # a step down the ladder would warn, which is an error
    q = q[:, 0].contiguous()
    mapped = target.with_rung("mapped").value_and_grad(q)
    traced = target.with_rung("traced").value_and_grad(q)
    torch.testing.assert_close(traced, mapped, rtol=1e-10, atol=1e-10)
    assert target.notes == []


class Without(Messenger):
    """A model that forgets the density of one of its sites."""

    def __init__(self, site):
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg):
        if msg["name"] == self.site:
            msg["scale"] = 0.0 * msg["scale"]


@needs_database
@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("eight_schools-eight_schools_noncentered", "mu"),
        ("garch-garch11", "alpha1"),  # the Jacobian of the triangle
        ("gp_pois_regr-gp_regr", "rho"),
        ("hmm_example-hmm_example", "mu"),
        ("kidiq-kidscore_momiq", "sigma"),
        ("kilpisjarvi_mod-kilpisjarvi", "alpha"),
        (LYNX, "sigma"),
        ("low_dim_gauss_mix-low_dim_gauss_mix", "theta"),
    ],
)
def test_a_model_without_one_of_its_priors_is_rejected(name, site):
    target, q = published(name, Without(site)(load(name).model))
    assert score_errors(target, q) > LIMIT


@needs_database
def test_a_density_of_the_wrong_scale_is_rejected():
    target, q = published("sblri-blr")
    centre = q.mean((0, 1))
    assert score_errors(target, centre + 1.02 * (q - centre)) > LIMIT
