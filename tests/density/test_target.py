"""The target: batches, derivatives, makers, starts and errors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_value

from pyro_geo.density import Layout, Target, batched, ladder
from pyro_geo.errors import (
    ConfigurationError,
    InitializationError,
    ModelError,
    ShapeError,
    UnsupportedError,
    UnsupportedModelError,
)
from tests.density.kinds import KINDS, X, Y

ALL = pytest.mark.parametrize("name", KINDS)
SMOOTH = pytest.mark.parametrize(
    "name", ["hierarchical", "regression", "lkj", "student", "network", "logistic"]
)


def positions(target, count=3):
    generator = torch.Generator().manual_seed(2)
    shape = (count, target.dim)
    return torch.randn(shape, generator=generator, dtype=target.dtype) * 0.5


def normal_model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


# -- batches and derivatives ------------------------------------------------------


@ALL
def test_a_batch_is_its_chains_one_at_a_time(name):
    target = KINDS[name].target().with_rung("mapped")
    q = positions(target)
    together = target.value_and_grad(q)
    apart = [target.value_and_grad(row[None]) for row in q]
    for ours, *theirs in zip(together, *apart, strict=True):
        torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-12, atol=1e-12)


@ALL
def test_gradient_is_that_of_finite_differences(name):
    target = KINDS[name].target().with_rung("mapped")
    q = positions(target, 1)
    _, grad = target.value_and_grad(q)
    steps = 1e-5 * torch.eye(target.dim, dtype=q.dtype)
    slope = (target.log_prob(q + steps) - target.log_prob(q - steps)) / 2e-5
    # a central difference is off by the third derivative times 1e-10, plus rounding
    torch.testing.assert_close(grad[0], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@SMOOTH
def test_hessian_products(name):
    target = KINDS[name].target()
    q, v = positions(target), positions(target).flip(0)
    value, grad, product = target.value_grad_hvp(q, v)
    torch.testing.assert_close(value, target.log_prob(q))
    torch.testing.assert_close(grad, target.value_and_grad(q)[1])
    assert torch.equal(product, target.hvp(q, v))
    for row, direction, found in zip(q, v, product, strict=True):
        hessian = torch.func.hessian(lambda x: target.log_prob(x[None])[0])(row)
        torch.testing.assert_close(found, hessian @ direction)


def test_logistic_derivatives_at_zero_and_far_out():
    target = KINDS["logistic"].target()
    x, y = target.data
    # logits of exactly zero, and of hundreds
    q = torch.tensor([[0.0, 0.0, 0.0], [400.0, -300.0, 200.0]], dtype=torch.float64)
    _, grad, product = target.value_grad_hvp(q, torch.ones_like(q))
    p = torch.sigmoid(q @ x.T)
    torch.testing.assert_close(grad, (y - p) @ x - q)
    curvature = (p * (1 - p))[:, :, None] * x
    expected = -torch.einsum("cni,n->ci", curvature, x.sum(-1)) - 1
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    target = KINDS["regression"].target(dtype)
    q = target.initial(2, generator=torch.Generator().manual_seed(0))
    outputs = [q, *target.terms(q), *target.value_grad_hvp(q, q)]
    outputs += [*target.constrain(q).values(), target.unconstrain(target.constrain(q))]
    outputs += target.pointwise_log_likelihood(q).values()
    assert {x.dtype for x in outputs} == {dtype}
    exact = KINDS["regression"].target().log_prob(q.double())
    torch.testing.assert_close(target.log_prob(q).double(), exact, rtol=1e-5, atol=0)


# -- other makers -------------------------------------------------------------------


def test_a_potential_with_data_and_a_layout():
    layout = Layout.from_supports({"a": (torch.Size([2]), dist.constraints.positive)})
    target = Target.from_potential(
        lambda z, x: (z["a"] * x).sum(), layout, torch.ones(2)
    )
    q = torch.tensor([[1.0, 2.0]])
    assert target.log_prob(q).tolist() == [-3.0]
    assert target.log_prior(q).tolist() == [0.0]
    assert target.with_data(torch.full((2,), 2.0)).log_prob(q).tolist() == [-6.0]
    assert target.pointwise_log_likelihood(q) == {}
    assert target.deterministics(q) == {}
    assert target.observed == {}


def loss(outputs, targets):
    return 0.5 * (outputs.squeeze(-1) - targets) ** 2


@pytest.fixture
def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    )


def test_a_module_and_its_loss(module):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    target = Target.from_module(
        module, loss, (X, Y), prior_precision=3.0, dtype=torch.float64
    )
    q = target.layout.flatten({k: v.detach() for k, v in module.named_parameters()})
    q = q.double()[None]
    expected = loss(module.double()(X), Y)
    pointwise = target.pointwise_log_likelihood(q)["loss"][0]
    torch.testing.assert_close(pointwise, -expected.detach())
    torch.testing.assert_close(target.log_likelihood(q)[0], -expected.detach().sum())
    prior = torch.distributions.Normal(0.0, torch.tensor(3.0).double().rsqrt())
    torch.testing.assert_close(target.log_prior(q)[0], prior.log_prob(q).sum())
    found = target.with_data(X, 2 * Y).value_and_grad(q)[0]
    total = loss(module(X), 2 * Y).sum().detach()
    torch.testing.assert_close(found, target.log_prior(q) - total)
    assert all(p.requires_grad for p in module.parameters())
    assert module.state_dict().keys() == before.keys()


def test_a_module_starts_as_its_layers_do(module):
    target = Target.from_module(module, loss, (X, Y))
    state = torch.get_rng_state()
    starts = target.initial(3, generator=torch.Generator().manual_seed(0))
    again = target.initial(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(starts, again)
    assert not torch.equal(starts[0], starts[1])
    assert starts.abs().max() <= 3**-0.5  # as Linear(3, ...) draws its weights


def test_modules_that_are_no_functions_are_refused(module):
    module.append(torch.nn.Dropout(0.5))
    with pytest.raises(UnsupportedModelError, match="Call eval"):
        Target.from_module(module, loss, (X, Y))
    assert Target.from_module(module.eval(), loss, (X, Y)).dim == 21
    with pytest.raises(ModelError, match="module has no parameters"):
        Target.from_module(torch.nn.Tanh(), loss, (X, Y))


# -- the ladder's switch ------------------------------------------------------------


@pytest.fixture
def compilations(monkeypatch):
    calls = []

    def record(graph, examples):
        calls.append(graph)
        return graph

    monkeypatch.setattr(ladder, "compile_graph", record)
    monkeypatch.setattr(batched, "worthwhile_steps", lambda size: 3)
    return calls


def test_auto_compiles_after_so_many_calls(compilations):
    target = Target.from_model(normal_model, Y)
    q = torch.zeros(2, 1)
    rungs = []
    for _ in range(5):
        target.value_and_grad(q)
        rungs.append(target.rung)
    assert rungs == ["traced"] * 3 + ["compiled"] * 2
    assert len(compilations) == 1


@pytest.mark.parametrize(
    ("option", "expected"), [(True, "compiled"), (False, "traced")]
)
def test_compile_at_once_or_never(compilations, option, expected):
    target = Target.from_model(normal_model, Y, compile=option)
    for _ in range(5):
        target.value_and_grad(torch.zeros(2, 1))
        assert target.rung == expected
    assert len(compilations) == option


def test_a_fixed_rung_goes_before_counting(compilations):
    target = Target.from_model(normal_model, Y)
    fixed = target.with_rung("traced")
    for _ in range(5):
        fixed.value_and_grad(torch.zeros(2, 1))
    assert compilations == []
    assert fixed.with_rung(None).rung == "compiled"
    assert target.with_rung("sequential").ceiling == "sequential"
    assert target.with_rung("sequential").with_rung("traced").ceiling == "compiled"


# -- starts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["uniform", "prior", "median", init_to_value(values={"mean": Y[0]})]
)
def test_starts_follow_their_generator(strategy):
    target = Target.from_model(normal_model, Y)
    state = torch.get_rng_state()
    starts = target.initial(4, strategy, torch.Generator().manual_seed(5))
    again = target.initial(4, strategy, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert starts.shape == (4, 1)
    assert torch.equal(starts, again)
    if callable(strategy):
        assert torch.equal(starts, Y[0].float().expand(4, 1))
    else:
        assert len(starts.unique()) == 4
    if strategy == "uniform":
        assert (starts.abs() < 2).all()


def test_starts_are_redrawn_until_they_are_finite():
    def half(q):
        return torch.where(q[0] > 0, q[0], torch.inf)

    starts = Target.from_potential(half, 1).initial(50)
    assert (starts > 0).all()


def streams(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize(
    "strategy", ["uniform", "prior", "median", init_to_value(values={"mean": Y[0]})]
)
def test_starts_of_a_batch_are_those_of_its_generators(strategy):
    target = Target.from_model(normal_model, Y, dtype=torch.float64)
    state = torch.get_rng_state()
    starts = target.initial_each(streams(5), strategy)
    assert torch.equal(torch.get_rng_state(), state)
    assert starts.dtype == torch.float64
    one_by_one = [target.initial(1, strategy, g) for g in streams(5)]
    assert torch.equal(starts, torch.cat(one_by_one))
    assert torch.equal(starts[2:4], target.initial_each(streams(5)[2:4], strategy))


def test_only_failed_starts_are_redrawn_each_from_its_own_generator():
    rows = []

    def half(q):
        return torch.where(q[0] > 0, q[0], torch.inf)

    class Rows(type(Target.from_potential(half, 1))):
        def log_prob(self, q):
            rows.append(len(q))
            return super().log_prob(q)

    target = Rows.from_potential(half, 1)
    rows.clear()
    starts = target.initial_each(streams(50))
    assert (starts > 0).all()
    assert rows[0] == 50
    assert rows == sorted(rows, reverse=True)
    # a row fails with probability one half: 2^-20 for each that is left after 20 rounds
    assert len(rows) < 20
    one_by_one = [target.initial(1, "uniform", g) for g in streams(50)]
    assert torch.equal(starts, torch.cat(one_by_one))


def test_modules_start_each_from_its_own_generator(module):
    target = Target.from_module(module, loss, (X, Y))
    starts = target.initial_each(streams(3))
    one_by_one = [target.initial(1, "uniform", g) for g in streams(3)]
    assert torch.equal(starts, torch.cat(one_by_one))


def test_no_start_of_a_batch_names_its_chain():
    def stuck(q):
        return torch.where(q[0] < 100, torch.inf, q[0])

    with pytest.raises(InitializationError, match="chain 0, the potential"):
        Target.from_potential(stuck, 1).initial_each(streams(2))


def test_no_start_names_the_site_and_its_value():
    def model(y):
        low = pyro.sample("low", dist.Uniform(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(low, 2.0), obs=y)

    target = Target.from_model(model, torch.tensor([-5.0, 1.5]))
    with pytest.raises(
        InitializationError,
        match=r"chain 0, site 'y' \(observed.*found log-density -inf",
    ):
        target.initial(2)

    def far(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("z", dist.Normal(x / 0.0, 1.0))

    with pytest.raises(InitializationError, match=r"site 'z' \(value \[-?\d"):
        Target.from_model(far, Y).initial(1)
    holes = torch.where(torch.arange(12) < 3, torch.nan, Y.float())
    with pytest.raises(
        InitializationError,
        match=r"site 'y' \(observed data, 3 of 12 not finite, log-probability nan\)",
    ):
        Target.from_model(normal_model, holes).initial_each(streams(2))
    steep = Target.from_potential(
        lambda q: q[0].abs().sqrt() * 0 + (q - q).sqrt()[0], 1
    )
    with pytest.raises(InitializationError, match="the potential"):
        steep.initial(1)


def test_starts_from_priors_need_a_model():
    target = Target.from_potential(lambda q: (q * q).sum(), 2)
    with pytest.raises(UnsupportedError, match="needs a Pyro model"):
        target.initial(2, "prior")
    assert target.default_strategy == "uniform"
    assert Target.from_model(normal_model, Y).default_strategy == "median"


# -- errors -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 1)])
def test_positions_of_another_shape(shape):
    target = Target.from_model(normal_model, Y)
    q = torch.zeros(shape)
    for call in (target.log_prob, target.value_and_grad, target.terms):
        with pytest.raises(ShapeError, match=r"expected \(chains, 1\)"):
            call(q)
    with pytest.raises(ShapeError):
        target.hvp(torch.zeros(2, 1), q)


def test_new_data_must_be_like_the_old():
    target = Target.from_model(normal_model, Y)
    with pytest.raises(ShapeError, match="new data do not match"):
        target.with_data(Y[:3])
    with pytest.raises(ShapeError, match="another structure"):
        target.with_data(Y, Y)
    with pytest.raises(ShapeError, match="another structure"):
        target.with_data(y=Y)
    target = Target.from_model(normal_scaled, Y, 2.0)
    assert target.with_data(Y + 1, 2.0).data[0].equal((Y + 1).float())
    with pytest.raises(ConfigurationError, match=r"found 3\.0, expected 2\.0"):
        target.with_data(Y, 3.0)


def normal_scaled(y, scale):
    mean = pyro.sample("mean", dist.Normal(0.0, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_keywords_come_in_any_order():
    kind = KINDS["keywords"]
    target = kind.target()
    swapped = {name: kind.kwargs[name] for name in reversed(list(kind.kwargs))}
    q = positions(target)
    found = target.with_data(**swapped).log_prob(q)
    assert torch.equal(found, target.log_prob(q))


def test_data_must_not_move_a_support():
    def model(y):
        top = pyro.sample("top", dist.Uniform(0.0, y.max()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(top, 1.0), obs=y)

    target = Target.from_model(model, Y)
    assert target.with_data(Y.flip(0)).dim == 1
    with pytest.raises(UnsupportedModelError, match=r"changed with the data.*'top'"):
        target.with_data(2 * Y)


def test_more_losses_than_data_are_refused():
    net = torch.nn.Linear(1, 1)
    x, y = torch.zeros(5, 1), torch.zeros(5)
    with pytest.raises(ShapeError, match=r"losses of \(5, 5\).*targets of \(5,\)"):
        Target.from_module(net, lambda f, t: (f - t) ** 2, (x, y))
    with pytest.raises(ConfigurationError, match="as in"):
        Target.from_module(net, lambda f, t: f - t, x)  # type: ignore[arg-type]
    # one value for each output, or their sum
    Target.from_module(net, lambda f, t: (f[:, 0] - t) ** 2, (x, y))
    Target.from_module(net, lambda f, t: ((f[:, 0] - t) ** 2).sum(), (x, y))
