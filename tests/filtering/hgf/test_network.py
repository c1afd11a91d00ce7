"""Networks against exact filters, their own symmetries and Pyro."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.nn import PyroParam, PyroSample
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    HGFDomainError,
    HGFGraphError,
    HGFNegativePrecisionError,
    HGFShapeError,
)
from pyro_geo.filtering.hgf.filter import hgf_filter
from pyro_geo.filtering.hgf.network import HGFNetwork

pytestmark = pytest.mark.usefixtures("double_precision")


def single(**options: Any) -> HGFNetwork:
    network = HGFNetwork(**options).add_state("x", omega=-1.0, pi0=2.0)
    return network.observe("x", input_precision=3.0)


def pair(update: Any = "unbounded", first: str = "a", **options: Any) -> HGFNetwork:
    """Two observed states that share a volatility parent, which has one too."""
    network = HGFNetwork(update=update)
    sides = ("a", "b") if first == "a" else ("b", "a")
    for name in sides:
        network.add_state(
            name,
            omega=-2.0 if name == "a" else -1.5,
            volatility_parents={"v": 1.0 if name == "a" else -0.7},
        )
        network.observe(name, input_precision=4.0, **options)
    network.add_state("v", omega=-3.0, volatility_parents={"top": 0.5})
    return network.add_state("top", omega=-4.0)


def data(length: int = 12) -> dict[str, Tensor]:
    return {name: torch.randn(length).cumsum(0) for name in ("a", "b")}


# -- exact filters -------------------------------------------------------------------


def test_one_state_is_the_kalman_filter():
    u, step = torch.randn(9), torch.rand(9) + 0.5
    found = single()(u, time_step=step)
    time = step.cumsum(0)
    walk = math.exp(-1.0) * torch.minimum(time[:, None], time)
    joint = walk + 0.5 + torch.eye(9) / 3.0
    normal = dist.MultivariateNormal(torch.zeros(9), joint)
    torch.testing.assert_close(-found.surprise.sum(), normal.log_prob(u))


def test_several_inputs_of_one_state_are_predicted_together():
    network = single().observe("x", input_precision=0.5, name="second")
    u = torch.randn(6, 2)
    found = network(u)
    index = torch.arange(6).repeat_interleave(2)
    walk = math.exp(-1.0) * (torch.minimum(index[:, None], index) + 1)
    noise = torch.tensor([1 / 3.0, 2.0]).repeat(6)
    joint = walk + 0.5 + torch.diag(noise)
    normal = dist.MultivariateNormal(torch.zeros(12), joint)
    torch.testing.assert_close(-found.surprise.sum(), normal.log_prob(u.flatten()))
    other = HGFNetwork().add_state("x", omega=-1.0, pi0=2.0)
    other.observe("x", input_precision=0.5, name="second")
    other.observe("x", input_precision=3.0)
    swapped = other({"x": u[:, 0], "second": u[:, 1]})
    torch.testing.assert_close(swapped.surprise, found.surprise)
    torch.testing.assert_close(swapped.mu["x"], found.mu["x"])


def test_a_missing_input_is_left_out():
    u, seen = torch.randn(9), torch.arange(9) % 3 != 1
    u_nan = torch.where(seen, u, torch.nan)
    found = single()(u_nan, nan_policy="missing")
    index = torch.arange(9)[seen]
    walk = math.exp(-1.0) * (torch.minimum(index[:, None], index) + 1)
    joint = walk + 0.5 + torch.eye(len(index)) / 3.0
    normal = dist.MultivariateNormal(torch.zeros(len(index)), joint)
    torch.testing.assert_close(-found.surprise.sum(), normal.log_prob(u[seen]))
    assert (found.surprise[~seen] == 0).all()
    torch.testing.assert_close(found.mu["x"][~seen], found.muhat["x"][~seen])
    torch.testing.assert_close(found.pi["x"][~seen], found.pihat["x"][~seen])


def test_a_value_parent_of_several_children_gets_the_normal_messages():
    # one step of a parent that drifts two children: Bayes' rule for its coefficient
    network, t, psi = HGFNetwork(), 1.7, {"a": 0.8, "b": -0.4}
    network.add_state("trend", omega=-2.0, mu0=0.3, pi0=4.0)
    for name in ("a", "b"):
        network.add_state(name, omega=-1.0, value_parents={"trend": psi[name]})
        network.observe(name, input_precision=1e12)  # the child's move is known
    u = {"a": torch.tensor([0.9]), "b": torch.tensor([-0.6])}
    found = network(u, time_step=t)
    m, p = found.muhat["trend"], found.pihat["trend"]
    assert abs(float(1 / p) - (0.25 + t * math.exp(-2.0))) < 1e-12
    noise = {name: 1 / (1 + t * math.exp(-1.0)) for name in psi}
    precision = p + sum(noise[n] * (t * psi[n]) ** 2 for n in psi)
    residual = {n: u[n] - t * psi[n] * m for n in psi}
    mean = m + sum(noise[n] * t * psi[n] * residual[n] for n in psi) / precision
    torch.testing.assert_close(found.pi["trend"], precision)
    torch.testing.assert_close(found.mu["trend"], mean, rtol=1e-9, atol=1e-9)


def test_a_nonlinear_value_parent_takes_a_newton_step_or_one_of_gauss_and_newton():
    def posterior(u: float) -> tuple[Tensor, Tensor, Tensor]:
        network = HGFNetwork().add_state("b", omega=-2.0, mu0=0.4, pi0=4.0)
        network.add_state("a", omega=-1.0, value_parents={"b": (1.5, torch.exp)})
        found = network.observe("a", input_precision=1e12)(torch.tensor([u]))
        noise, p = found.pihat["a"], found.pihat["b"]

        def energy(x: Tensor) -> Tensor:
            miss = u - 1.5 * torch.exp(x)
            return -0.5 * (noise * miss**2 + p * (x - 0.4) ** 2).sum()

        slope = torch.func.grad(energy)
        bend = -torch.func.grad(lambda x: slope(x).sum())(torch.tensor([0.4]))
        step = found.mu["b"] - 0.4
        return bend, found.pi["b"], slope(torch.tensor([0.4])) / step

    bend, precision, divisor = posterior(2.0)
    torch.testing.assert_close(precision, bend, rtol=1e-9, atol=0)
    torch.testing.assert_close(divisor, bend, rtol=1e-9, atol=0)
    bend, precision, divisor = posterior(40.0)
    assert bend < 0  # Newton's step would go downhill
    assert precision > 4.0 - 1.0
    torch.testing.assert_close(divisor, precision, rtol=1e-9, atol=0)


def test_two_binary_inputs_of_one_state_add_up():
    network = HGFNetwork().add_state("x", omega=-1.0, mu0=0.5)
    network.observe("x", "binary").observe("x", "binary", name="y")
    found = network({"x": torch.tensor([1.0]), "y": torch.tensor([0.0])})
    p = torch.sigmoid(torch.tensor([0.5]))
    precision = 1 / (1 + math.exp(-1.0)) + 2 * p * (1 - p)
    torch.testing.assert_close(found.pi["x"], precision)
    torch.testing.assert_close(found.mu["x"], 0.5 + (1 - 2 * p) / precision)
    torch.testing.assert_close(found.surprise, -torch.log(p * (1 - p)))


# -- symmetries ----------------------------------------------------------------------


@pytest.mark.parametrize("update", ["unbounded", "ehgf", "moment"])
def test_the_order_in_which_children_are_added_makes_no_difference(update: Any):
    u = data()
    one, two = pair(update)(u), pair(update, first="b")(u)
    for name in ("a", "b", "v", "top"):
        torch.testing.assert_close(one.mu[name], two.mu[name], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.pi[name], two.pi[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.surprise, two.surprise)


def test_two_pieces_are_one_piece():
    u = data()
    whole = pair()(u)
    first = pair()({name: value[:5] for name, value in u.items()})
    rest = {name: value[5:] for name, value in u.items()}
    second = pair()(rest, init_state=first.final_state)
    for name, value in whole.mu.items():
        both = torch.cat([first.mu[name], second.mu[name]])
        torch.testing.assert_close(both, value, rtol=1e-13, atol=1e-13)
    both = torch.cat([first.surprise, second.surprise])
    torch.testing.assert_close(both, whole.surprise, rtol=1e-13, atol=1e-13)


def test_a_batch_element_does_not_depend_on_the_others():
    u = {name: value * torch.ones(3, 1) for name, value in data().items()}
    u["b"] = u["b"] + torch.randn(3, 1)
    found = pair()(u)
    for k in range(3):
        alone = pair()({name: value[k] for name, value in u.items()})
        torch.testing.assert_close(alone.surprise, found.surprise[k])


def test_parameters_and_data_have_batches_of_their_own():
    omega = torch.tensor([[-1.0], [-3.0]])  # chains
    u = torch.randn(4, 6)  # subjects
    network = single()
    found = network(u, parameters={"x.omega": omega})
    assert found.surprise.shape == (2, 4, 6)
    one = network(u[2], parameters={"x.omega": omega[1, 0]})
    torch.testing.assert_close(found.surprise[1, 2], one.surprise)


def test_a_time_step_is_a_larger_variance():
    u, shift = data(), math.log(2.5)
    later = pair()
    for name in later.graph.names:
        state = getattr(later, name)
        state.omega = state.omega + shift
    found = pair()(u, time_step=2.5)
    torch.testing.assert_close(found.surprise, later(u).surprise)


def test_children_that_are_not_observed_teach_nothing():
    u = data()
    silent = torch.zeros(12, dtype=torch.bool)
    found = pair()(u, observed={"a": ~silent, "b": silent})
    alone = HGFNetwork().add_state("a", omega=-2.0, volatility_parents={"v": 1.0})
    alone.observe("a", input_precision=4.0)
    alone.add_state("v", omega=-3.0, volatility_parents={"top": 0.5})
    expected = alone.add_state("top", omega=-4.0)(u["a"])
    for name in ("a", "v", "top"):
        torch.testing.assert_close(found.mu[name], expected.mu[name])
        torch.testing.assert_close(found.pi[name], expected.pi[name])
    nothing = pair()(u, observed={"a": silent, "b": silent})
    for name in nothing.mu:
        assert torch.equal(nothing.mu[name], nothing.muhat[name])
        exactly(nothing.pi[name], nothing.pihat[name])


def test_no_coupling_is_no_parent():
    u = data()
    network = pair()
    network.a.kappa_v = 0.0
    network.b.kappa_v = 0.0
    found = network(u)
    assert torch.equal(found.mu["v"], found.muhat["v"])
    alone = HGFNetwork().add_state("a", omega=-2.0).observe("a", input_precision=4.0)
    torch.testing.assert_close(found.surprises["a"], alone(u["a"]).surprise)


def test_outliers_leave_everything_finite():
    for dtype in (torch.float32, torch.float64):
        u = {name: value.to(dtype) for name, value in data(20).items()}
        u["a"][5] = 1e15
        scale = torch.ones((), dtype=dtype, requires_grad=True)
        found = pair()({name: value * scale for name, value in u.items()})
        total = found.surprise.sum()
        (slope,) = torch.autograd.grad(total, scale)
        assert total.isfinite()
        assert slope.isfinite()
        assert total.dtype == dtype


# -- chains --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["continuous", "binary"])
@pytest.mark.parametrize("update", ["unbounded", "classic", "ehgf", "ehgf_pyhgf"])
def test_a_chain_is_the_filter_of_chains(update: Any, kind: Any):
    length, levels = 30, 3
    u, step = torch.randn(2, length), torch.rand(length) + 0.5
    u = (u > 0).to(u.dtype) if kind == "binary" else u
    seen = torch.rand(2, length) > 0.2
    omega = torch.tensor([-2.0, -3.0, -4.0])
    psi, kappa = torch.tensor([0.3, -0.2]), torch.tensor([1.1, -0.6])
    drift, rate = torch.tensor([0.1, 0.0, -0.1]), torch.tensor([1.0, 0.9, 0.8])
    mu0, pi0 = torch.tensor([0.1, 0.5, -0.3]), torch.tensor([1.0, 2.0, 3.0])
    noise = torch.tensor(3.0) if kind == "continuous" else None
    expected = hgf_filter(
        u,
        omega,
        kappa,
        mu0,
        pi0,
        noise,
        kind=kind,
        update=update,
        time_step=step,
        drift=drift,
        autoconnection=rate,
        value_coupling=psi,
        observed=seen,
        backend="torch",
    )
    network = HGFNetwork(update=update)
    for j in reversed(range(levels)):  # in whatever order they are added
        above = f"x{j + 2}"
        network.add_state(
            f"x{j + 1}",
            omega=omega[j],
            drift=drift[j],
            autoconnection=rate[j],
            mu0=mu0[j],
            pi0=pi0[j],
            value_parents={above: psi[j]} if j < 2 else None,
            volatility_parents={above: kappa[j]} if j < 2 else None,
        )
    network.observe("x1", kind, input_precision=noise)
    data = torch.where(seen, u, torch.nan)
    found = network(data, time_step=step, nan_policy="missing")
    # the same by the general filter, which a second state without a say calls for
    network.add_state("idle", omega=0.0)
    general = network(data, time_step=step, nan_policy="missing")
    for trajectory in (found, general):
        for j in range(levels):
            for value, numbers in (
                (trajectory.mu, expected.mu),
                (trajectory.pi, expected.pi),
                (trajectory.muhat, expected.muhat),
                (trajectory.pihat, expected.pihat),
            ):
                exactly(value[f"x{j + 1}"], numbers[..., j])
        exactly(trajectory.surprise, expected.surprise)


def test_the_log_density_is_minus_the_surprise_for_chains_and_others():
    chain = HGFNetwork().add_state("x", omega=-1.0, volatility_parents={"v": 1.0})
    chain.observe("x", input_precision=2.0).add_state("v", omega=-3.0)
    omega = torch.tensor([-1.0, torch.nan, -2.0], requires_grad=True)
    for network, u in ((chain, torch.randn(8)), (pair(), torch.randn(8, 2))):
        name = "v.omega"
        with pyro.validation_enabled(False):
            inputs = network.distribution(8, parameters={name: omega})
            found, steps = inputs.log_prob(u), inputs.log_prob_steps(u)
        torch.testing.assert_close(found, steps.sum(-1))
        assert found[1] == -math.inf  # a proposal that no filter can run on
        expected = -network(u, parameters={name: omega[::2].detach()}).surprise
        exactly(found.detach()[::2], expected.sum(-1))
        (slope,) = torch.autograd.grad(found.sum(), omega)
        assert slope[1] == 0
        assert (slope[::2] != 0).all()


def exactly(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# -- derivatives ---------------------------------------------------------------------


@pytest.mark.parametrize("update", ["unbounded", "classic", "ehgf", "moment"])
def test_derivatives_are_those_of_differences(update: Any):
    u = data(4)
    names = [
        "a.omega",
        "b.kappa_v",
        "v.omega",
        "v.mu0",
        "top.omega",
        "a.input_precision",
    ]
    start = torch.tensor([-2.0, 0.6, -3.0, 0.2, -4.0, 4.0], requires_grad=True)

    def total(x: Tensor) -> Tensor:
        numbers = dict(zip(names, x.unbind(), strict=True))
        return pair(update)(u, parameters=numbers).surprise.sum()

    with pyro.validation_enabled(False):
        assert torch.autograd.gradcheck(total, start, rtol=1e-6, atol=1e-7)


def test_it_is_one_operation_of_a_trace_with_two_derivatives():
    u = data(8)
    network = pair()
    names = "v.omega", "b.kappa_v", "a.input_precision"

    def total(x: Tensor) -> Tensor:
        numbers = dict(zip(names, x.unbind(-1), strict=True))
        found = network({**u, "a": u["a"] * x[..., :1]}, parameters=numbers)
        return found.surprise.sum()

    x = torch.tensor([[-3.0, -0.7, 4.0], [-1.0, 0.4, 2.0]])
    with pyro.validation_enabled(False):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        twice = [torch.autograd.grad(s, leaf, retain_graph=True)[0] for s in slope[1]]
        mapped = torch.func.vmap(torch.func.grad(total))
        exactly(mapped(x), slope.detach())
        graph = make_fx(mapped)(x)
        exactly(graph(x), slope.detach())
        hessian = torch.func.jacrev(torch.func.grad(total))(x[1])
        exactly(hessian, torch.stack(twice)[:, 1])
    calls = [str(node.target) for node in graph.graph.nodes]
    assert sum("hgf_network" in name for name in calls) == 2
    assert len(calls) < 1_500  # that of every step has some 10,000


def test_derivatives_by_data_survive_a_mapped_axis():
    u, network = data(5), pair()

    def total(scale: Tensor, omega: Tensor) -> Tensor:
        data = {**u, "a": u["a"] * scale * omega}  # one more axis than the leaf has
        return network(data, parameters={"v.omega": omega}).surprise.sum()

    omega, scale = torch.tensor([-3.0, -2.0]), torch.tensor(1.3)

    def mapped(scale: Tensor) -> Tensor:
        return torch.func.vmap(lambda x: total(scale, x))(omega).sum()

    leaf = scale.clone().requires_grad_()
    alone = torch.stack([total(leaf, x) for x in omega]).sum()
    (expected,) = torch.autograd.grad(alone, leaf)
    with pyro.validation_enabled(False):
        exactly(torch.func.grad(mapped)(scale), expected)


def test_a_function_of_a_parent_is_traced_step_by_step():
    network = HGFNetwork().add_state("b", omega=-2.0)
    network.add_state("a", omega=-1.0, value_parents={"b": (0.5, torch.tanh)})
    network.observe("a", input_precision=2.0)
    u = torch.randn(2)

    def total(omega: Tensor) -> Tensor:
        return network(u, parameters={"b.omega": omega}).surprise.sum()

    x = torch.tensor([-3.0, -1.0])
    with pyro.validation_enabled(False):
        mapped = torch.func.vmap(torch.func.grad(total))
        leaves = [value.clone().requires_grad_() for value in x]
        expected = [torch.autograd.grad(total(leaf), leaf)[0] for leaf in leaves]
        exactly(make_fx(mapped)(x)(x), torch.stack(expected))


def test_compiled_loops_are_the_filter_in_torch():
    networks = [HGFNetwork(backend=backend) for backend in ("auto", "torch")]
    u = torch.randn(3, 25, 3).cumsum(1)
    u[..., 1] = (u[..., 1] > 0).to(u.dtype)
    u[2, 9, 0] = 1e6
    seen, step = torch.rand(3, 25, 3) > 0.3, torch.rand(3, 25) + 0.5
    shift = 1 + 0.1 * torch.randn(3)
    found = []
    for network in networks:
        network.add_state(
            "a",
            omega=-2.0,
            drift=0.1,
            autoconnection=0.9,
            volatility_parents={"v": 1.0, "w": 0.3},
            value_parents={"b": 0.4},
        )
        network.add_state("b", omega=-1.5, volatility_parents={"v": -0.7})
        network.add_state("v", omega=-3.0, volatility_parents={"top": 0.5})
        network.add_state("top", omega=-4.0)
        network.add_state("w", omega=-3.0, value_parents={"top": 0.2})
        network.observe("a", input_precision=4.0).observe("b", "binary")
        network.observe("b", input_precision=2.0, name="b2")
        numbers = [("a", "omega"), ("a", "drift"), ("a", "kappa_w"), ("b", "kappa_v")]
        numbers += [("v", "autoconnection"), ("w", "psi_top"), ("top", "mu0")]
        numbers += [("v", "pi0"), ("b", "input_precision_b2"), ("a", "psi_b")]
        leaves = {
            f"{state}.{key}": (getattr(getattr(network, state), key) * shift)
            .detach()
            .requires_grad_()
            for state, key in numbers
        }
        data = u.clone().requires_grad_()
        trajectory = network(data, observed=seen, time_step=step, parameters=leaves)
        beliefs = [trajectory.surprise, *trajectory.mu.values()]
        total = torch.stack([value.tanh().sum() for value in beliefs]).sum()
        one = torch.autograd.grad(total, list(leaves.values()), retain_graph=True)
        (by_data,) = torch.autograd.grad(total, data)
        # without derivatives by the data, by loops of another kind
        plain = network(u, observed=seen, time_step=step, parameters=leaves)
        beliefs = [plain.surprise, *plain.mu.values()]
        total = torch.stack([value.tanh().sum() for value in beliefs]).sum()
        two = torch.autograd.grad(total, list(leaves.values()))
        pairs = zip(one, two, strict=True)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in pairs)
        found.append((*trajectory.pi.values(), plain.surprise, by_data, *two))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_a_failed_series_has_no_derivative_and_says_where():
    u = torch.tensor([[0.0, 0.1, 0.0, 30.0, 0.0], [0.0, 0.1, 0.0, 0.1, 0.0]])
    omega = torch.tensor([2.0, -3.0], requires_grad=True)
    network = HGFNetwork(update="classic")
    network.add_state("x", omega=-4.0, pi0=100.0, volatility_parents={"v": 1.0})
    network.add_state("v", omega=omega).observe("x", input_precision=10.0)
    with pytest.raises(HGFNegativePrecisionError, match="state v, step 3, batch"):
        network(u)
    found = network(u, on_invalid="nan")
    assert found.mu["v"].isnan().tolist()[0] == [False] * 3 + [True] * 2
    assert found.mu["x"].isnan().tolist()[0] == [False] * 4 + [True]
    assert found.mu["v"][1].isfinite().all()
    infinite = network(u, on_invalid="-inf").surprise.sum(-1)
    assert infinite[0] == math.inf
    slope = torch.autograd.grad(infinite.sum(), omega)[0]
    assert slope[0] == 0
    assert slope[1] != 0


# -- Pyro ----------------------------------------------------------------------------


def test_numbers_may_have_priors_and_be_parameters():
    network = HGFNetwork().add_state(
        "x",
        omega=PyroSample(dist.Normal(-2.0, 1.0)),
        mu0=PyroParam(torch.tensor(0.5)),
        pi0=torch.tensor(2.0),
        volatility_parents={"v": PyroSample(dist.Normal(1.0, 0.1))},
    )
    network.observe("x", input_precision=PyroSample(dist.LogNormal(0.0, 1.0)))
    network.add_state("v", omega=-4.0)
    u = torch.randn(5)

    def model(u: Tensor) -> Tensor:
        distribution = network.distribution(len(u))
        pyro.sample("u", distribution, obs=u)
        return distribution.trajectory(u).mu["v"]

    trace = poutine.trace(model).get_trace(u)
    trace.compute_log_prob()
    assert {"x.omega", "x.kappa_v", "x.input_precision"} <= set(trace.nodes)
    assert [name for name, _ in network.named_parameters()] == ["x.mu0_unconstrained"]
    numbers = {
        name: trace.nodes[name].get("value")
        for name in ("x.omega", "x.kappa_v", "x.input_precision")
    }
    expected = -network(u, parameters=numbers).surprise.sum()
    torch.testing.assert_close(trace.nodes["u"].get("log_prob"), expected)
    target = Target.from_model(model, u[:3], compile=False)
    _, slope = target.value_and_grad(torch.zeros(2, target.dim))
    assert slope.isfinite().all()
    drawn = Predictive(model, num_samples=3, return_sites=["u"])
    assert drawn(u)["u"].shape == (3, 5)


def test_subjects_in_a_plate():
    network = pair()
    u = torch.randn(4, 6, 2)

    def model(u: Tensor) -> None:
        with pyro.plate("subjects", 4):
            omega = pyro.sample("omega", dist.Normal(-2.0, 1.0))
            distribution = network.distribution(6, parameters={"a.omega": omega})
            pyro.sample("u", distribution, obs=u)

    trace = poutine.trace(model).get_trace(u)
    trace.compute_log_prob()
    found = trace.nodes["u"].get("log_prob")
    assert isinstance(found, Tensor)
    assert found.shape == (4,)
    distribution = network.distribution(6).expand([4])
    assert distribution.log_prob_steps(u).shape == (4, 6)
    torch.testing.assert_close(
        distribution.log_prob_steps(u).sum(-1), distribution.log_prob(u)
    )
    assert distribution.sample((2,)).shape == (2, 4, 6, 2)


def test_simulated_inputs_have_the_moments_of_the_model():
    drawn = single().distribution(4, time_step=2.0).sample((40_000,))
    index = torch.arange(4)
    walk = 2 * math.exp(-1.0) * (torch.minimum(index[:, None], index) + 1)
    joint = walk + 0.5 + torch.eye(4) / 3.0
    # the standard error of a covariance is sqrt((c_ii c_jj + c_ij^2) / n)
    error = (torch.outer(joint.diag(), joint.diag()) + joint**2).sqrt() / 200
    assert ((drawn.T.cov() - joint).abs() < 4.5 * error).all()


# -- mistakes ------------------------------------------------------------------------


def test_circles_are_named():
    network = HGFNetwork().add_state("a", omega=0.0, volatility_parents={"b": 1.0})
    network.add_state("b", omega=0.0, value_parents={"a": 1.0})
    network.observe("a", "binary")
    with pytest.raises(HGFGraphError, match=r"circle(.|\n)*a -> b -> a|b -> a -> b"):
        _ = network.graph


def test_names_are_checked():
    network = single()
    with pytest.raises(HGFGraphError, match="taken"):
        network.add_state("x", omega=0.0)
    with pytest.raises(HGFGraphError, match="taken"):
        network.add_state("forward", omega=0.0)
    with pytest.raises(HGFGraphError, match="identifier"):
        network.add_state("left eye", omega=0.0)
    with pytest.raises(HGFGraphError, match="unknown state"):
        network.observe("y", "binary")
    with pytest.raises(HGFGraphError, match="input twice"):
        network.observe("x", input_precision=1.0)
    network.connect("x", "ghost", "volatility")
    with pytest.raises(HGFGraphError, match="edge twice"):
        network.connect("x", "ghost", "volatility")
    with pytest.raises(HGFGraphError, match="ghost"):
        _ = network.graph


def test_something_must_be_observed():
    with pytest.raises(HGFGraphError, match="no state is observed"):
        HGFNetwork().add_state("x", omega=0.0).distribution(3)


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="update"):
        HGFNetwork(update="collapsed")
    with pytest.raises(ConfigurationError, match="backend"):
        HGFNetwork(backend="jax")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="input_precision"):
        HGFNetwork().add_state("x", omega=0.0).observe("x")
    with pytest.raises(ConfigurationError, match="input_precision"):
        HGFNetwork().add_state("x", omega=0.0).observe(
            "x", "binary", input_precision=1.0
        )
    with pytest.raises(ConfigurationError, match="function"):
        single().connect("x", "x", "volatility", function=torch.exp)
    with pytest.raises(ConfigurationError, match=r"x\.omga"):
        single()(torch.zeros(3), parameters={"x.omga": torch.zeros(())})
    with pytest.raises(ConfigurationError, match="num_steps"):
        single().distribution()


def test_data_are_checked():
    network = pair()
    with pytest.raises(HGFShapeError, match="no b"):
        network({"a": torch.zeros(3)})
    with pytest.raises(HGFShapeError, match="c"):
        network({"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)})
    with pytest.raises(HGFShapeError, match=r"\(4,\)"):
        network({"a": torch.zeros(3), "b": torch.zeros(4)})
    with pytest.raises(HGFShapeError, match="inputs a, b"):
        network(torch.zeros(3, 3))
    with pytest.raises(HGFShapeError, match="time_step"):
        network(torch.zeros(3, 2), time_step=torch.ones(4))
    with pytest.raises(HGFShapeError, match=r"x\.omega"):
        single()(
            torch.zeros(3),
            parameters={"x.omega": torch.zeros(2), "x.mu0": torch.zeros(3)},
        )
    with pytest.raises(HGFDomainError, match="step 1"):
        single()(torch.tensor([0.0, torch.nan]))
    with pytest.raises(HGFDomainError, match="time_step"):
        single()(torch.zeros(2), time_step=torch.tensor([1.0, 0.0]))
    with pytest.raises(HGFDomainError, match=r"x\.pi0"):
        HGFNetwork().add_state("x", omega=0.0, pi0=0.0).observe("x", "binary")(
            torch.zeros(2)
        )
    with pytest.raises(HGFDomainError, match="0 or 1"):
        HGFNetwork().add_state("x", omega=0.0).observe("x", "binary")(
            torch.full((2,), 0.5)
        )
