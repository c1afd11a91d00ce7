"""The compiled filter beside the one in operations of torch."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo import Target
from pyro_geo.filtering import hgf_surprise
from pyro_geo.filtering.hgf.compiled.operator import (
    compiled_scan,
    compiled_surprise,
    compiled_total,
    supports,
)
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters, Kind, Update
from pyro_geo.filtering.hgf.scan import scan
from pyro_geo.filtering.hgf.trajectory import surprise

UPDATES: tuple[Update, ...] = ("unbounded", "classic", "ehgf", "ehgf_pyhgf")

# a floating type is compiled in some seconds, and single precision by no other test
DTYPES = [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)]


def draw(
    levels: int, kind: str, lanes: int = 20, steps: int = 12, coupled: bool = True
) -> tuple[HGFParameters, HGFInputs]:
    generator = torch.Generator().manual_seed(levels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    parameters = HGFParameters(
        normal(lanes, levels) - 2,
        0.8 + 0.5 * normal(lanes, levels - 1),
        0.3 * normal(lanes, levels),
        (0.5 * normal(lanes, levels)).exp(),
        0.05 * normal(lanes, levels),
        1 - 0.1 * uniform(lanes, levels),
        0.2 * normal(lanes, levels - 1) * coupled,
        normal(lanes).exp(),
    )
    u = 0.5 * normal(lanes, steps).cumsum(-1)
    u = (u > 0).double() if kind == "binary" else u
    observed = uniform(lanes, steps) > 0.2
    time = 0.5 + uniform(lanes, steps)
    return parameters, HGFInputs(torch.where(observed, u, 0.0), observed, time)


def pulled(outputs: tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a weighted sum of all numbers of the outputs."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros((), dtype=outputs[0].dtype)
    for output in outputs:
        weight = torch.randn(output.shape, generator=generator).to(output.dtype)
        total = total + (torch.nan_to_num(output) * weight).sum()
    return list(torch.autograd.grad(total, leaves, allow_unused=True))


def both(
    parameters: HGFParameters, inputs: HGFInputs, kind: Kind, update: Update
) -> list[tuple[tuple[Tensor, ...], list[Tensor]]]:
    found = []
    for compiled in (False, True):
        leaves = [x.detach().clone().requires_grad_() for x in parameters]
        own = HGFParameters(*leaves)
        u = inputs.u.clone().requires_grad_(kind == "continuous")
        data = inputs._replace(u=u)
        options: Any = {"kind": kind, "update": update}
        if compiled:
            mu, pi = compiled_scan(own, data, **options)
            value = compiled_surprise(own, data, **options)
        else:
            mu, pi = scan(own, data, **options)
            value = surprise(own, data, mu, pi, kind=kind)
        outputs = mu, pi, value
        leaves += [u] if kind == "continuous" else []
        found.append((outputs, pulled(outputs, leaves)))
    return found


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", ["continuous", "binary"])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_agrees_with_the_filter_in_torch(
    update: Update, kind: Kind, levels: int
) -> None:
    parameters, inputs = draw(levels, kind)
    (values, grads), (ours, our_grads) = both(parameters, inputs, kind, update)
    for theirs, our in zip(values, ours, strict=True):
        torch.testing.assert_close(our, theirs, rtol=1e-11, atol=1e-11, equal_nan=True)
    for theirs, our in zip(grads, our_grads, strict=True):
        if theirs is not None and theirs.isfinite().all():
            scale = 1 + theirs.abs().max() if theirs.numel() else 1
            torch.testing.assert_close(our / scale, theirs / scale, rtol=0, atol=1e-9)


def cohort(q: Tensor, inputs: HGFInputs, parameters: HGFParameters) -> Tensor:
    own = parameters._replace(omega=q)
    options: Any = {"kind": "continuous", "update": "unbounded", "value_coupled": False}
    return compiled_total(own, inputs, **options).sum()


def reference(q: Tensor, inputs: HGFInputs, parameters: HGFParameters) -> Tensor:
    own = parameters._replace(omega=q)
    mu, pi = scan(own, inputs, kind="continuous", update="unbounded")
    return surprise(own, inputs, mu, pi, kind="continuous").sum()


def test_gradients_hold_under_every_transform() -> None:
    parameters, inputs = draw(2, "continuous", lanes=5, coupled=False)
    q = (
        parameters.omega
        + torch.linspace(-0.3, 0.3, 4, dtype=torch.float64)[:, None, None]
    )

    def ours(q: Tensor) -> Tensor:
        return cohort(q, inputs, parameters)

    def theirs(q: Tensor) -> Tensor:
        return reference(q, inputs, parameters)

    expected = torch.stack([torch.func.grad(theirs)(one) for one in q])
    mapped = torch.vmap(torch.func.grad(ours))
    outside = torch.func.grad(lambda q: torch.vmap(ours)(q).sum())
    graph = make_fx(mapped)(q)
    for found in (mapped(q), outside(q), graph(q)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    hessian = torch.func.jacrev(torch.func.grad(ours))(q[0])
    exact = torch.func.jacrev(torch.func.grad(theirs))(q[0])
    torch.testing.assert_close(hessian, exact, rtol=1e-9, atol=1e-9)


def test_runs_inside_a_target() -> None:
    parameters, inputs = draw(2, "continuous", lanes=3, coupled=False)

    def model() -> None:
        one = torch.ones(3, 2, dtype=torch.float64)
        normal = dist.Normal(-2 * one, one)
        q = pyro.sample("omega", normal.to_event(2))
        pyro.factor("data", -cohort(q, inputs, parameters))

    target = Target.from_model(model, compile=False, dtype=torch.float64)
    q = -2 + torch.linspace(-1, 1, 4 * 6, dtype=torch.float64).reshape(4, 6)
    values = []
    for rung in ("traced", "mapped", "sequential"):
        fixed = target.with_rung(rung)
        values.append(fixed.value_and_grad(q))
        assert fixed.rung == rung
    for value, grad in values[1:]:
        torch.testing.assert_close(value, values[0][0], rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(grad, values[0][1], rtol=1e-12, atol=1e-10)


@pytest.mark.slow
def test_runs_compiled_inside_a_target() -> None:
    parameters, inputs = draw(2, "continuous", lanes=3, coupled=False)

    def model() -> None:
        one = torch.ones(3, 2, dtype=torch.float64)
        normal = dist.Normal(-2 * one, one)
        q = pyro.sample("omega", normal.to_event(2))
        pyro.factor("data", -cohort(q, inputs, parameters))

    target = Target.from_model(model, dtype=torch.float64)
    q = -2 + torch.linspace(-1, 1, 4 * 6, dtype=torch.float64).reshape(4, 6)
    compiled, mapped = target.with_rung("compiled"), target.with_rung("mapped")
    found, expected = compiled.value_and_grad(q), mapped.value_and_grad(q)
    assert compiled.rung == "compiled"
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_extreme_boxes_stay_finite(dtype: torch.dtype, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lanes, steps, levels = 2000, 10, 3

    def box(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(dtype)

    zero = torch.zeros(lanes, levels, dtype=dtype)
    leaves = [
        box(-16, 8, lanes, levels),
        box(-3, 3, lanes, levels - 1),
        box(-100, 60, lanes, levels),
        box(-8, 6, lanes, levels).exp(),
        zero,
        zero + 1,
        zero[:, 1:],
        box(-5, 5, lanes).exp(),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    u = box(-3, 3, lanes, steps)
    u = (u > 0).to(dtype) if kind == "binary" else u
    inputs = HGFInputs(u, torch.ones_like(u).bool(), torch.ones_like(u))
    options: Any = {"kind": kind, "update": "unbounded", "value_coupled": False}
    parameters = HGFParameters(*leaves)
    total = compiled_total(parameters, inputs, **options)
    mu, pi = compiled_scan(parameters, inputs, **options)
    grads = torch.autograd.grad(total.sum(), leaves)
    assert (pi > 0).all()
    assert all(x.isfinite().all() for x in (total, mu, pi, *grads))


@pytest.mark.parametrize("dtype", DTYPES)
def test_outliers_pass(dtype: torch.dtype) -> None:
    sizes = torch.tensor([1e3, 1e6, 1e9, 1e12, 1e15], dtype=dtype)
    u = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    u[:, 50] = sizes
    zero = torch.zeros(2, dtype=dtype)
    omega = torch.tensor([-2.0, -3.0], dtype=dtype, requires_grad=True)
    rest = zero[:1] + 1, zero, zero + 1, zero, zero + 1, zero[:1], zero[0] + 1
    inputs = HGFInputs(u, torch.ones_like(u).bool(), torch.ones_like(u))
    options: Any = {"kind": "continuous", "update": "unbounded"}
    mu, pi = compiled_scan(HGFParameters(omega, *rest), inputs, **options)
    total = compiled_total(HGFParameters(omega, *rest), inputs, **options)
    (grad,) = torch.autograd.grad(total.sum(), omega)
    assert mu.isfinite().all()
    assert (pi > 0).all()
    assert grad.isfinite().all()
    # two steps later the lowest level is back
    assert mu[:, 53, 0].abs().max() < 10


def test_lanes_do_not_depend_on_each_other_or_on_threads() -> None:
    parameters, inputs = draw(2, "continuous", lanes=70)
    options: Any = {"kind": "continuous", "update": "unbounded"}
    whole = compiled_total(parameters, inputs, **options)
    some = [slice(0, 1), slice(5, 40)]
    for part in some:
        own = HGFParameters(*(x[part] for x in parameters))
        rows = HGFInputs(*(x[part] for x in inputs))
        assert torch.equal(compiled_total(own, rows, **options), whole[part])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(compiled_total(parameters, inputs, **options), whole)
    finally:
        torch.set_num_threads(before)


def test_inputs_are_shared_by_chains() -> None:
    parameters, inputs = draw(2, "binary", lanes=4)
    chains = HGFParameters(*(torch.stack([x, x + 0.01, x]) for x in parameters))
    options: Any = {"kind": "binary", "update": "unbounded"}
    found = compiled_surprise(chains, inputs, **options)
    assert found.shape == (3, 4, 12)
    assert torch.equal(found[0], compiled_surprise(parameters, inputs, **options))
    # rows of inputs for chains, one series of parameters for all
    rows = HGFInputs(*(x[:, None] for x in inputs))
    one = HGFParameters(*(x[:1] for x in parameters))
    assert compiled_surprise(one, rows, **options).shape == (4, 1, 12)


def test_says_what_goes_to_torch() -> None:
    parameters, inputs = draw(2, "continuous")
    assert supports(parameters, inputs, kind="continuous", update="unbounded") is True
    unsupported: tuple[Update, ...] = ("moment", "collapsed")
    for update in unsupported:
        reason = supports(parameters, inputs, kind="continuous", update=update)
        assert isinstance(reason, str)
    timed = inputs._replace(time_step=inputs.time_step.requires_grad_())
    reason = supports(parameters, timed, kind="continuous", update="unbounded")
    assert isinstance(reason, str)


def test_third_derivatives_name_the_way_out() -> None:
    parameters, inputs = draw(2, "continuous", lanes=2, steps=3, coupled=False)
    q = parameters.omega.clone().requires_grad_()
    grad = torch.autograd.grad(cohort(q, inputs, parameters), q, create_graph=True)[0]
    second = torch.autograd.grad(grad.sum(), q, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match='backend="torch"'):
        torch.autograd.grad(second.sum(), q)


def child(payload: bytes) -> Tensor:
    parameters, inputs = pickle.loads(payload)
    return compiled_total(parameters, inputs, kind="continuous", update="unbounded")


@pytest.mark.slow
def test_runs_in_another_process() -> None:
    case = draw(2, "continuous")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(child, pickle.dumps(case)).result()
    expected = compiled_total(*case, kind="continuous", update="unbounded")
    assert torch.equal(found, expected)


def test_inputs_that_a_mapped_axis_makes_are_differentiated():
    numbers = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    base = torch.linspace(-1, 1, 12, dtype=torch.float64)

    def total(scale, backend):
        u = torch.sin(scale * base)  # depends on what is differentiated and mapped
        low = torch.full((2,), -2.0, dtype=torch.float64)
        path = hgf_surprise(
            u, low, low.new_ones(1), 0 * low, 1 + 0 * low, 1.0, backend=backend
        )
        return path.sum()

    for transform in (
        lambda f: torch.func.vmap(torch.func.grad(f)),
        lambda f: torch.func.grad(lambda x: torch.func.vmap(f)(x).sum()),
    ):
        ours = transform(lambda x: total(x, "numba"))(numbers)
        theirs = transform(lambda x: total(x, "torch"))(numbers)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert bool((ours != 0).all())
