"""What Pyro users type first: it works as they expect, or names the words to type."""

import functools
import inspect
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS, config_enumerate
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.infer.mcmc.util import initialize_model
from pyro.nn import PyroModule

from pyro_geo._pyro_words import words_for
from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    ModelError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.infer import DIMS, HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.testing.hmc import FixedHMC

Y = torch.tensor([1.0, 2.0, 0.0])


def model(y, scale=1.0):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.1))
    with pyro.plate("data", len(y)):
        return pyro.sample("y", dist.Normal(m, s * scale), obs=y)


class Callable:
    def method(self, y):
        return model(y)

    def __call__(self, y):
        return model(y)


class Network(PyroModule):
    def forward(self, y):
        return model(y)


def run(kernel, *args, num_samples=4, num_chains=2, data=None, **options):
    options = {"seed": 1, "progress_bar": False, "warmup_steps": 0, **options}
    fit = MCMC(kernel, num_samples, num_chains=num_chains, **options)
    return fit.run(*args, **(data or {}))


def fixed(what):
    return FixedHMC(what, step_size=0.1, num_steps=2)


# -- in place of a model ---------------------------------------------------------------


@pytest.fixture(scope="module")
def draws_of_model():
    return run(fixed(model), Y).positions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name"),
    [
        # a function called `model` goes by the name of its file
        (functools.partial(model, scale=1.0), "test_habits"),
        pytest.param(
            functools.partial(functools.partial(model), scale=1.0),
            "test_habits",
            marks=pytest.mark.slow,
        ),
        (Callable(), "Callable"),
        pytest.param(Callable().method, "method", marks=pytest.mark.slow),
        (Network(), "Network"),
        (poutine.mask(model, mask=True), "model"),
        pytest.param(config_enumerate(model), "model", marks=pytest.mark.slow),
    ],
)
def test_every_callable_is_a_model_and_has_its_name(draws_of_model, what, name):
    fit = run(fixed(what), Y)
    assert fit.attributes["model"] == name
    # the same density, so the same draws
    assert fit.positions.equal(draws_of_model)


FIT = MCMC(HMC(model), 3, progress_bar=False)


@pytest.mark.parametrize("owner", [HMC, DIMS, FixedHMC])
@pytest.mark.parametrize(
    ("what", "match"),
    [
        (Callable, r"the class Callable.*\(Callable\(\.\.\.\)\)"),
        (Network, r"the class Network.*\(Network\(\.\.\.\)\)"),
        (NUTS(model), r"a kernel, NUTS.*\(kernel.model\)"),
        (HMC(model), r"a kernel, HMC.*\(kernel.model\)"),
        (FIT, r"a result, MCMC.*\(model\)"),
        (PyroMCMC(NUTS(model), 3), r"a result, MCMC.*\(model\)"),
        (AutoNormal(model), r"a guide, AutoNormal.*\(guide.model\)"),
        (dist.Normal(0.0, 1.0), "a distribution, Normal.*pyro.sample"),
        (None, r"None.*\(model\), and its arguments to run"),
        ("model", r"'model'.*\(model\), and its arguments to run"),
        (Y, r"Tensor.*\(model\), and its arguments to run"),
    ],
)
def test_what_is_no_model_is_answered_with_words(owner, what, match):
    with pytest.raises(ConfigurationError, match=f"{owner.__name__}.*{match}"):
        owner(what)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (HMC, r"the class HMC.*MCMC\(HMC\(model\), \.\.\.\)"),
        (NUTS(model), r"Pyro's own kernel NUTS.*MCMC\(HMC\(model\), \.\.\.\)"),
        (model, r"a model, model.*MCMC\(HMC\(model\), \.\.\.\)"),
        (Network(), r"a model, Network.*MCMC\(HMC\(Network\), \.\.\.\)"),
        (None, r"NoneType.*MCMC\(HMC\(model\), \.\.\.\)"),
    ],
)
def test_what_is_no_kernel_is_answered_with_words(what, match):
    with pytest.raises(ConfigurationError, match=match):
        MCMC(what, 10)


def test_gibbs_posteriors_refuse_the_same():
    def loss(f, y):
        return (f - y) ** 2

    with pytest.raises(ConfigurationError, match=r"the class Network.*GibbsModel\("):
        GibbsModel(Network, loss)
    wrong: Any = None
    with pytest.raises(ConfigurationError, match="argument loss"):
        GibbsModel(model, wrong)
    wrong = HMC(model)
    with pytest.raises(ConfigurationError, match=r"GibbsPosterior\(GibbsModel\("):
        GibbsPosterior(wrong)

    def silent(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match="returns no prediction .*'silent'"):
        GibbsModel(silent, loss).target(Y, Y)


# -- options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "option", "words"),
    [
        (HMC, "jit_compile", "compile="),
        (HMC, "ignore_jit_warnings", "compile="),
        (HMC, "full_mass", "metric='dense'"),
        (HMC, "max_tree_depth", "max_leapfrog="),
        (HMC, "adapt_step_size", "step_size="),
        (HMC, "adapt_mass_matrix", "metric="),
        (HMC, "num_steps", "trajectory_length="),
        (HMC, "num_chains", r"MCMC\(HMC\(model\), \.\.\., num_chains="),
        (DIMS, "initial_params", r"MCMC\(DIMS\(model\), \.\.\., initial_params="),
        (HMC, "target_accept", "'target_accept_prob'"),
        (MCMC, "disable_progbar", "progress_bar=False"),
        (MCMC, "hook_fn", "open_run"),
        (MCMC, "mp_context", "n_jobs="),
        (MCMC, "disable_validation", "leave it out"),
        (MCMC, "save_params", "keep="),
        (MCMC, "space", "initial_space="),
        (MCMC, "transforms", r"HMC\(model, transforms="),
        (MCMC, "potential_fn", r"HMC\(model, potential_fn="),
        (MCMC, "target_accept_prob", r"HMC\(model, target_accept_prob="),
    ],
)
def test_options_of_pyro_are_answered_with_ours(owner, option, words):
    arguments: tuple[Any, ...] = (HMC(model), 3) if owner is MCMC else (model,)
    with pytest.raises(ConfigurationError, match=words):
        owner(*arguments, **{option: 1})


@pytest.mark.parametrize("owner", [HMC, MCMC])
def test_every_option_of_pyro_is_known_or_answered(owner):
    """A table of words with a hole would leave a user with a list of all names."""
    theirs = NUTS if owner is HMC else PyroMCMC
    for kind in {theirs, *theirs.__mro__} - {object}:
        for option in inspect.signature(kind.__init__).parameters:
            if option in ("self", "args", "kwargs"):
                continue
            ours = inspect.signature(owner.__init__).parameters
            assert option in ours or words_for(owner, option), option


@pytest.mark.slow
def test_pyros_strategies_start_chains():
    start = init_to_value(values={"m": torch.tensor(3.0)})
    kernel = HMC(model, init_strategy=start, step_size=1e-8, trajectory_length=1e-8)
    fit = run(kernel, Y, num_samples=1)
    torch.testing.assert_close(fit.get_samples()["m"], torch.tensor([3.0, 3.0]))


# -- potential functions ---------------------------------------------------------------

PRECISION = torch.tensor([[2.0, 0.5], [0.5, 1.0]])


def potential(z):
    return 0.5 * z["x"] @ PRECISION @ z["x"] + 0.5 * (z["y"] - 1.0) ** 2


def flat(q):
    return potential({"x": q[:2], "y": q[2]})


START = {"x": torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "y": torch.tensor([1.0, 2.0])}
FLAT = torch.cat([START["x"], START["y"][:, None]], 1)
OPTIONS: dict[str, Any] = {"num_samples": 30, "warmup_steps": 20}


@pytest.fixture(scope="module")
def by_target():
    """The same density, made by hand."""
    target = Target.from_potential(flat, 3)
    return run(HMC(target), initial_params={"q": FLAT}, **OPTIONS).positions


def test_a_potential_function_is_a_density(by_target):
    fit = run(HMC(potential_fn=potential), initial_params=START, **OPTIONS)
    torch.testing.assert_close(fit.positions, by_target)
    samples = fit.get_samples(group_by_chain=True)
    assert samples["x"].shape == (2, 30, 2)
    torch.testing.assert_close(samples["y"], by_target[..., 2])
    idata = fit.to_arviz()
    assert idata["posterior"]["x"].shape == (2, 30, 2)
    assert fit.attributes["model"] == "potential"
    with pytest.raises(UnsupportedError, match="no model to draw from"):
        fit.posterior_predictive()


@pytest.mark.slow
def test_a_potential_function_is_stored_and_resumed(by_target, tmp_path):
    kernel = HMC(potential_fn=potential)
    options = {**OPTIONS, "initial_params": START, "store": tmp_path / "run"}
    run(kernel, **options)
    longer = {**options, "num_samples": 60, "num_chains": 2, "progress_bar": False}
    more = MCMC(kernel, **longer).resume()
    assert more.positions.shape[1] == 60
    torch.testing.assert_close(more.positions[:, :30], by_target)


@pytest.mark.slow
def test_a_potential_function_runs_in_processes():
    options = {**OPTIONS, "initial_params": START, "chain_batch_size": 1}
    kernel = HMC(potential_fn=potential)
    apart = run(kernel, n_jobs=2, **options).positions
    torch.testing.assert_close(apart, run(kernel, **options).positions)


@pytest.mark.slow
def test_a_potential_function_compiles(by_target):
    fit = run(
        HMC(potential_fn=potential), initial_params=START, compile=True, **OPTIONS
    )
    assert fit.rung == "compiled"
    torch.testing.assert_close(fit.positions[:, :3], by_target[:, :3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.FallbackWarning")
def test_pyros_own_potential_function_is_that_of_the_model():
    """The one that `initialize_model` makes, with its transforms and starts."""
    starts, function, transforms, _ = initialize_model(model, (Y,), num_chains=2)
    kernel = HMC(
        potential_fn=function, transforms=transforms, step_size=0.1, trajectory_length=1
    )
    options: dict[str, Any] = {
        "initial_params": starts,
        "initial_space": "unconstrained",
        "compile": False,
    }
    theirs = run(kernel, **options)
    ours = run(HMC(model, step_size=0.1, trajectory_length=1), Y, **options)
    torch.testing.assert_close(theirs.positions, ours.positions, rtol=1e-4, atol=1e-4)
    assert float(theirs.get_samples()["s"].min()) > 0


def test_a_potential_function_in_pyros_runner():
    pyro.set_rng_seed(0)
    kernel = HMC(potential_fn=potential, step_size=0.3, trajectory_length=1.5)
    one = {name: value[0] for name, value in START.items()}
    options: dict[str, Any] = {"initial_params": one, "disable_progbar": True}
    mcmc = PyroMCMC(kernel, 20, 10, **options)
    mcmc.run()
    assert mcmc.get_samples()["x"].shape == (20, 2)
    with pytest.raises(ConfigurationError, match="initial_params"):
        PyroMCMC(HMC(potential_fn=potential), 5, disable_progbar=True).run()


NOTHING: Any = 3


def returns_nothing(z) -> Any:
    return None


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: HMC(), ConfigurationError, r"HMC\(model\)"),
        (lambda: HMC(model, potential_fn=flat), ConfigurationError, "one density"),
        (lambda: HMC(potential_fn=NOTHING), ConfigurationError, r"HMC\(potential_fn="),
        (lambda: HMC(model, transforms={}), ConfigurationError, "transforms"),
        (lambda: run(HMC(potential_fn=flat)), ConfigurationError, "initial_params"),
        (
            lambda: run(HMC(potential_fn=potential), Y, initial_params=START),
            ConfigurationError,
            "closure over its data",
        ),
        (
            lambda: run(HMC(potential_fn=lambda z: z["x"]), initial_params=START),
            ShapeError,
            r"found shape \(2,\)",
        ),
        (
            lambda: run(HMC(potential_fn=returns_nothing), initial_params=START),
            ShapeError,
            "found NoneType",
        ),
        (
            lambda: run(
                HMC(potential_fn=potential, transforms={"z": None}),
                initial_params=START,
            ),
            ConfigurationError,
            "transforms",
        ),
    ],
)
def test_mistakes_with_a_potential_function_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


# -- data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Y.numpy(), r"torch\.as_tensor\(x\)"),
        (pd.Series(Y.numpy()), r"torch\.tensor\(x\.to_numpy\(\)\)"),
        pytest.param(Y.tolist(), r"torch\.tensor\(x\)", marks=pytest.mark.slow),
    ],
)
def test_data_that_are_no_tensors_are_answered_with_words(data, words):
    with pytest.raises(ModelError, match=words):
        run(fixed(model), data)
    with pytest.raises(ModelError, match=words):
        run(fixed(model), data={"y": data})
    # a model may make tensors of them itself
    fit = run(fixed(lambda y: model(torch.tensor(np.asarray(y)).float())), data)
    assert fit.positions.shape == (2, 4, 2)


def test_integers_where_floats_are_needed_are_answered_with_words():
    def regression(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)

    x = torch.eye(2, dtype=torch.long)
    with pytest.raises(ModelError, match=r"int64.*x\.float\(\)"):
        run(fixed(regression), x, Y[:2])
    # integers as data promote, as in Pyro
    assert run(fixed(regression), x.float(), torch.tensor([1, 2])).num_samples == 4


def test_wrong_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        run(fixed(model))
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        run(fixed(model), Y, data={"sale": 1.0})
