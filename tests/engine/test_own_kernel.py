"""The kernel of the docs page: its size, its draws, every contract, Pyro's runner."""

import ast
import re
import sys
import types
from pathlib import Path
from typing import Any

import pyro
import pyro.infer
import pytest
import torch

from pyro_geo.citations import citation
from pyro_geo.density import Target
from pyro_geo.engine import Kernel
from pyro_geo.errors import CheckpointError, ConfigurationError
from pyro_geo.infer import MCMC
from pyro_geo.testing.contracts import CHECKS, Case
from pyro_geo.testing.gates import check_gaussian
from tests.cases import effects, effects_permuted, numbers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "kernel.md"
Y = 2 * numbers(4, seed=2)


def code_of_the_page() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (code,) = (block for block in blocks if "class RandomWalk" in block)
    return code


@pytest.fixture(scope="module")
def walk():
    """The class, in a module of its own so that it pickles."""
    module = types.ModuleType("a_kernel_of_the_docs")
    sys.modules[module.__name__] = module
    exec(compile(code_of_the_page(), str(PAGE), "exec"), module.__dict__)
    yield module.__dict__["RandomWalk"]
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def case(walk):
    # another number of chains side by side changes last bits
    return Case(
        "random walk",
        walk,
        effects,
        (Y,),
        effects_permuted,
        warmup=5,
        dtype=torch.float64,
        rounding=1e-6,
        regrouping=1e-6,
    )


def test_it_is_about_thirty_lines():
    code = code_of_the_page()
    tree = ast.parse(code)
    docstrings = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) - len(docstrings) <= 32


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_every_contract(check, case):
    check(case)


def test_it_draws_from_the_density(walk):
    """Moments, R-hat, effective size; false alarms below 1e-4."""
    target = Target.from_potential(lambda q: 0.5 * q.square().sum(), 2)
    fit = MCMC(walk(target, scale=1.7), 400, 50, 100, seed=0, progress_bar=False)
    q = fit.run().positions
    check_gaussian(q, torch.zeros(2), torch.eye(2), false_alarm=1e-4)


def test_it_runs_inside_pyros_runner(walk, case):
    """The global generator rules, and the kernel has no code for it."""
    draws = []
    for seed in (0, 0, 1):
        pyro.set_rng_seed(seed)
        mcmc = pyro.infer.MCMC(
            walk(case.target, scale=0.5),
            num_samples=120,
            warmup_steps=60,
            disable_progbar=True,
        )
        mcmc.run()
        draws.append(mcmc.get_samples()["eta"])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (120, 4)
    assert len(draws[0].unique(dim=0)) > 30  # it moves
    assert mcmc.diagnostics()["divergences"] == {"chain 0": []}


def test_pyros_bar_shows_the_log_density(walk, case):
    kernel = walk(case.target)
    kernel.setup(2)
    start = kernel.initial_params
    q = [kernel.sample(start) for _ in range(3)][-1]
    flat = case.target.layout.flatten(q)[None]
    shown = float(kernel.logging()["lp"])
    assert shown == pytest.approx(float(case.target.log_prob(flat)), rel=1e-2)


# -- what is declared -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"statistics": ("acceptance_rate", "diverging")}, "Add 'lp' to"),
        ({"statistics": ()}, "Add 'lp' and 'diverging' to Broken.statistics"),
        ({"settings": ("scale", "width")}, "no attribute 'width'"),
        ({"citations": ("me2026",)}, "unknown citation key.*Broken.citations.*me2026"),
    ],
)
def test_a_kernel_with_wrong_declarations_is_refused(walk, case, attributes, message):
    broken: Any = type("Broken", (walk,), attributes)
    with pytest.raises(ConfigurationError, match=message):
        MCMC(broken(case.target), 5)
    with pytest.raises(ConfigurationError, match=message):
        broken(case.target).setup(0)


def test_a_record_of_ones_own_is_a_citation(walk, case):
    record = "@misc{me2026walk, title={A Walk}}"
    cited: Any = type("Cited", (walk,), {"citations": (record,)})
    MCMC(cited(case.target), 5)  # is not refused
    assert citation(cited).startswith(record)


def test_a_kernel_without_its_parts_cannot_be_made():
    class Half(Kernel):
        statistics = ("lp", "diverging")

    half: Any = Half
    with pytest.raises(TypeError, match="block"):
        half(lambda: None)


def test_a_setting_that_changed_is_named_on_resuming(walk, tmp_path):
    options: dict[str, Any] = {"seed": 0, "progress_bar": False}
    store = tmp_path / "run.zarr"
    MCMC(walk(effects), 10, 0, store=store, **options).run(Y.float())
    with pytest.raises(CheckpointError, match=r"settings\.scale.*0\.5 now.*0\.3"):
        MCMC(walk(effects, scale=0.5), 10, 0, store=store, **options).resume(Y.float())
