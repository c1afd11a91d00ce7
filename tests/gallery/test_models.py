"""Every file of the model gallery, found by name: its rules and that it runs."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_geo.density import Target
from pyro_geo.infer import DIMS

FOLDER = Path(__file__).parents[2] / "models"
PATHS = sorted(FOLDER.glob("*.py"))
WORDS = {
    "pyro_geo.distributions",
    "pyro_geo.filtering",
    "pyro_geo.planning.boolean_network",
    "pyro_geo.planning.environments",
}
WITH_TEST_DATA = [path for path in PATHS if "def held_out(" in path.read_text()]
WITH_TRUTH = [path for path in PATHS if "def truth(" in path.read_text()]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def latents_of(module: ModuleType, count: int) -> dict[str, torch.Tensor]:
    """Prior draws of the latent sites, stacked."""
    data = module.data()
    sites = Target.from_model(module.model, *data, compile=False).layout.sites
    prior = Predictive(module.model, num_samples=count, return_sites=list(sites))
    # Pyro leaves an axis of length one for each plate that a site is outside of
    return {
        name: value.reshape(count, *sites[name].constrained_shape)
        for name, value in prior(*data).items()
    }


def memberships_of(module: ModuleType) -> dict[str, torch.Tensor]:
    """One prior draw of the discrete latents, which a target sums out."""
    data = module.data()
    sites = Target.from_model(module.model, *data, compile=False).layout.sites
    nodes = poutine.trace(module.model).get_trace(*data).nodes
    return {
        name: site["value"]
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and name not in sites
        and getattr(site["fn"], "has_enumerate_support", False)
    }


def log_joint(
    module: ModuleType, data: tuple[torch.Tensor, ...], latents: dict[str, torch.Tensor]
) -> torch.Tensor:
    model = poutine.condition(module.model, data=latents)
    return torch.as_tensor(poutine.trace(model).get_trace(*data).log_prob_sum())


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_gallery_is_here():
    names = {path.stem for path in PATHS}
    assert {"gap_network", "eight_schools", "digits_classifier"} <= names
    assert "__init__" not in names


def test_file_keeps_the_rules(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) < 80
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(a.name for a in node.names)]
    }
    assert not imported & {other.stem for other in PATHS}
    own = {name for name in imported if (name or "").startswith("pyro_geo")}
    assert own <= WORDS  # what models are made of, and nothing that samples them


def test_file_defines_model_data_and_options(path: Path):
    module = load(path)
    data = module.data()
    assert isinstance(data, tuple)
    assert all(isinstance(value, torch.Tensor) for value in data)
    inspect.signature(module.model).bind(*data)
    DIMS(module.model, **module.options())  # unknown or bad options raise here


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_model_traces_maps_and_keeps_the_dtype(path: Path, dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    module = load(path)
    data, latents = module.data(), latents_of(module, 3)
    assert {value.dtype for value in latents.values()} == {dtype}
    memberships = memberships_of(module)

    def density(z: dict[str, torch.Tensor]) -> torch.Tensor:
        return log_joint(module, data, {**memberships, **z})

    rows = [{name: value[i] for name, value in latents.items()} for i in range(3)]
    expected = torch.stack([density(row) for row in rows])
    assert expected.isfinite().all()
    with pyro.validation_enabled(False):
        slopes, found = torch.func.vmap(torch.func.grad_and_value(density))(latents)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert all(slope.isfinite().all() for slope in slopes.values())


def test_data_are_the_same_at_both_precisions(path: Path):
    module = load(path)
    single = module.data()
    torch.set_default_dtype(torch.float64)
    for a, b in zip(single, module.data(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_model_goes_on_the_traced_rung_without_a_warning(path: Path):
    # any step down the ladder is a warning, hence an error here
    module = load(path)
    target = Target.from_model(module.model, *module.data(), compile=False)
    value, gradient = target.value_and_grad(0.1 * torch.ones(2, target.dim))
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_model_predicts_without_its_observations(path: Path):
    module = load(path)
    *inputs, y = module.data()
    predict = Predictive(module.model, latents_of(module, 2), return_sites=["y"])
    drawn = predict(*inputs)["y"]
    assert drawn.shape == (2, *y.shape)
    assert not torch.equal(drawn[0], y)


@pytest.mark.parametrize("path", WITH_TEST_DATA, ids=lambda path: path.stem)
def test_held_out_data_fit_the_model_and_are_new(path: Path):
    module = load(path)
    data, held_out = module.data(), module.held_out()
    assert [a.shape[1:] for a in data] == [a.shape[1:] for a in held_out]
    assert [a.dtype for a in data] == [a.dtype for a in held_out]
    assert not (data[0].unsqueeze(1) == held_out[0]).all(-1).any()
    assert not torch.equal(module.held_out(seed=1)[0], held_out[0])
    poutine.trace(module.model).get_trace(*held_out).compute_log_prob()


@pytest.mark.parametrize("path", WITH_TRUTH, ids=lambda path: path.stem)
def test_truth_is_finite(path: Path):
    assert all(value.isfinite().all() for value in load(path).truth().values())


@pytest.mark.slow
def test_file_runs_alone(path: Path, tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) >= 3


def test_gap_network_has_its_gap_and_size():
    module = load(FOLDER / "gap_network.py")
    for x, inside in (
        (module.data()[0], False),
        (module.out_of_distribution()[0], True),
    ):
        assert (x.abs() < 0.8).all() == inside
        assert (x.abs() <= 2.0).all()
    assert len(module.data()[1]) == 40
    assert Target.from_model(module.model, *module.data()).dim == 321


def test_digits_network_has_its_size_and_strangers():
    module = load(FOLDER / "digits_classifier.py")
    assert Target.from_model(module.model, *module.data()).dim == 1_405
    assert len(module.data()[1]) == 200
    assert len(module.held_out()[1]) == 701
    assert module.data()[1].unique().tolist() == [0, 1, 2, 3, 4]
    (strangers,) = module.out_of_distribution()
    assert strangers.shape == (896, 64)


@pytest.mark.parametrize("sizes", [(6, 10), (3, 4), (8, 30)])
def test_overparameterised_truth_spans_the_perfect_fits(sizes: tuple[int, int]):
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "overparameterised_regression.py")
    x, y = module.data(*sizes)
    truth = module.truth(*sizes)
    num_rows, num_weights = sizes
    basis = truth["null_space"]
    assert basis.shape == (num_weights, num_weights - num_rows)
    weights = truth["minimum_norm"].unsqueeze(-1) + basis
    torch.testing.assert_close(x @ weights, y.unsqueeze(-1).expand(-1, basis.shape[1]))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]))
    assert (truth["minimum_norm"] @ basis).abs().max() < 1e-12


def test_eight_schools_truth_agrees_with_importance_sampling():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "eight_schools.py")
    sigma, y = module.data()
    mu = 5.0 * torch.randn(400_000)
    tau = 5.0 * torch.randn(400_000).div(torch.randn(400_000)).abs()
    spread = (sigma**2 + tau.unsqueeze(-1) ** 2).sqrt()
    normal = torch.distributions.Normal(mu.unsqueeze(-1), spread)
    weight = torch.softmax(normal.log_prob(y).sum(-1), 0)
    truth = module.truth()
    for name, value in (("mu", mu), ("tau", tau)):
        mean = weight @ value
        error = (weight**2 @ (value - mean) ** 2).sqrt()
        assert (mean - truth[f"{name}_mean"]).abs() < 4 * error
        sd = (weight @ (value - mean) ** 2).sqrt()
        torch.testing.assert_close(sd, truth[f"{name}_sd"], rtol=0.03, atol=0.0)


def test_centred_eight_schools_has_no_highest_point():
    module = load(FOLDER / "eight_schools_centred.py")
    target = Target.from_model(module.model, *module.data(), compile=False)
    log_tau = torch.tensor([-2.0, -6.0, -10.0])
    theta = torch.full((3, 8), 8.0)
    sites = {"mu": theta[:, 0], "tau": log_tau.exp(), "theta": theta}
    slope = target.log_prob(target.unconstrain(sites)).diff() / log_tau.diff()
    torch.testing.assert_close(slope, torch.full((2,), -7.0), rtol=1e-2, atol=0.0)


def test_saas_values_depend_on_the_two_inputs_alone():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "saas_gp.py")
    x, y = module.data()
    assert x.shape == (30, 30)
    assert ((x >= 0) & (x < 1)).all()
    assert y.mean().abs() < 1e-4
    assert (y.std() - 1).abs() < 1e-4
    active = module.truth()["active"]
    other = torch.rand_like(x)
    other[:, active] = x[:, active]
    torch.testing.assert_close(module.branin(other), module.branin(x))
    # one of the three places where Branin's function is lowest, in its own units
    lowest = torch.rand(1, 30)
    lowest[:, active] = torch.tensor([[(torch.pi + 5) / 15, 2.275 / 15]])
    assert abs(float(module.branin(lowest)) - 0.397887) < 1e-6
    x_new, _ = module.new_points()
    assert not (x.unsqueeze(1) == x_new).all(-1).any()


def test_saas_values_are_branin_s_with_noise():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "saas_gp.py")
    x, y = module.new_points()
    # the standard error of a deviation from 512 numbers is 5 / sqrt(1,024)
    assert abs((51.111 * y + 68.463 - module.branin(x)).std() - 5) < 4 * 5 / 32


def test_volatility_s_doubling_is_the_recurrence():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "stochastic_volatility.py")
    for n in (1, 2, 7, 64):
        innovations, a = torch.randn(n), torch.tensor(-0.9)
        h, expected = torch.zeros(()), []
        for innovation in innovations:
            h = a * h + innovation
            expected.append(h)
        found = module.autoregression(innovations, a)
        torch.testing.assert_close(found, torch.stack(expected))


def test_mixture_s_density_is_the_sum_over_its_components():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "gaussian_mixture.py")
    y = module.data()[1]
    target = Target.from_model(module.model, *module.data(), compile=False)
    q = 0.5 * torch.randn(4, target.dim)
    z = target.constrain(q)
    assert (z["locations"].diff() > 0).all()
    normal = torch.distributions.Normal(z["locations"], z["scales"])
    parts = z["weights"].log() + normal.log_prob(y[:, None, None])
    expected = parts.logsumexp(-1).sum(0)
    torch.testing.assert_close(target.log_likelihood(q), expected)


def test_breast_cancer_is_split_and_standardised():
    module = load(FOLDER / "logistic_breast_cancer.py")
    x, y = module.data()
    assert x.shape == (285, 30)
    assert len(module.held_out()[1]) == 284
    assert set(y.tolist()) == {0.0, 1.0}
    torch.testing.assert_close(x.mean(0), torch.zeros(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0), torch.ones(30), rtol=0, atol=1e-5)
    # 212 of the 569 are malignant, the class that the larger cells point to
    assert int(y.sum() + module.held_out()[1].sum()) == 212
    assert x[y == 1, 0].mean() > x[y == 0, 0].mean()


def test_reversal_task_reads_the_choices_of_real_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = ["subjID\ttrial\tchoice\toutcome", "7\t1\t1\t1", "7\t2\t2\t-1", "9\t1\t2\t1"]
    (tmp_path / "prl_example.tsv").write_text("\n".join(rows))
    monkeypatch.setenv("PYRO_GEO_DATA", str(tmp_path))
    u, seen, y = load(FOLDER / "reversal_task.py").data()
    assert y.tolist() == [[0.0, 1.0], [1.0, 0.0]]  # the second option
    assert u.tolist() == [[0.0, 0.0], [1.0, 0.0]]  # a loss speaks for the other one
    assert seen.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_cohort_s_people_are_found_where_they_are():
    torch.set_default_dtype(torch.float64)
    module = load(FOLDER / "volatility_cohort.py")
    truth = module.truth()
    u, y = module.data()
    target = Target.from_model(module.model, u, y, compile=False)
    sites = {name: truth[name].expand(2) for name in ("omega_mean", "omega_sd")}
    sites |= {name: truth[name].expand(2) for name in ("omega_top", "noise_mean")}
    sites["noise_sd"] = truth["noise_sd"].expand(2)
    # each person's own numbers, and those of somebody else
    omega, log_zeta = truth["omega"], truth["zeta"].log()
    mean, sd = truth["omega_mean"], truth["omega_sd"]
    partly = 0.8 * mean + (omega - mean) * sd**-0.2
    sites["omega_decentered"] = torch.stack([partly, partly.flip(0)])
    sites["log_zeta"] = torch.stack([log_zeta, log_zeta.flip(0)])
    own, other = target.log_likelihood(target.unconstrain(sites))
    assert own > other + 10
