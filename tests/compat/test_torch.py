"""Torch's private interfaces still do what `_compat/torch.py` needs (torch 2.13)."""

import subprocess
import sys
import warnings

import pytest
import torch
import torch._inductor.config as config
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo._compat import torch as compat

FLOAT = torch.float64


def test_trees_are_flattened_mapped_and_put_together():
    tree = {"a": torch.ones(2), "b": (torch.zeros(3), [1, None])}
    leaves, spec = compat.pytree.tree_flatten(tree)
    again = compat.pytree.tree_unflatten(leaves, spec)
    assert again["b"][1] == [1, None]
    assert again["a"] is tree["a"]
    assert len(compat.pytree.tree_leaves(tree)) == len(leaves)
    doubled = compat.pytree.tree_map(lambda x: None if x is None else 2 * x, tree)
    assert doubled["a"].tolist() == [2.0, 2.0]
    only = compat.pytree.tree_map_only(Tensor, lambda x: x + 1, tree)
    assert only["b"][0].tolist() == [1.0, 1.0, 1.0]
    assert only["b"][1] == [1, None]


def test_a_tensor_knows_whether_vmap_maps_it():
    seen = []

    def look(x):
        seen.append((compat.is_batchedtensor(x), compat.is_batchedtensor(fixed)))
        return x

    fixed = torch.ones(())
    torch.func.vmap(look)(torch.ones(3))
    assert seen == [(True, False)]


def test_values_may_be_looked_at_outside_of_traces_and_transforms_alone():
    seen = []

    def look(x):
        seen.append(compat.is_concrete(x))
        return x.sum()

    fixed = torch.ones(3)
    look(fixed)
    torch.func.vmap(look)(fixed)
    torch.func.grad(look)(fixed)
    compat.make_fx(lambda x: look(fixed) + x)(fixed)
    torch.compile(look, backend="eager")(fixed)
    assert seen == [True, False, False, False, False]


def test_derivatives_are_seen_through_nested_transforms():
    seen = []

    def look(x):
        seen.append((compat.depends_on_leaf(x * y), compat.depends_on_leaf(y)))
        return (x * y).sum()

    x, y = torch.ones(3), torch.ones(3)
    mapped = torch.func.vmap(look)
    look(x)
    torch.func.grad(look)(x)
    mapped(torch.ones(2, 3))
    torch.func.vmap(torch.func.grad(look))(torch.ones(2, 3))
    torch.func.grad(lambda z: mapped(z).sum())(torch.ones(2, 3))
    torch.func.grad(lambda z: torch.func.grad(look)(z).sum())(x)
    look(x.requires_grad_())
    wanted = [False, True, False, True, True, True, True]
    assert seen == [(has, False) for has in wanted]


def test_a_dispatch_mode_sees_every_operation_and_which_are_views():
    seen = []

    class Record(compat.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append((str(func), func.is_view))
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, 2)
    with Record():
        x.t().add(1)
    assert seen == [("aten.t.default", True), ("aten.add.Tensor", False)]


def test_a_function_can_be_traced_to_a_graph_whose_nodes_know_shapes():
    graph = compat.trace_graph(lambda x: (2 * x).sum(-1), torch.ones(3, 2))
    shapes = [tuple(n.meta["val"].shape) for n in graph.graph.nodes if n.op != "output"]
    assert shapes == [(3, 2), (3, 2), (3,)]


def test_a_trace_makes_one_mode_of_fake_tensors(monkeypatch):
    """Each looks up the lines of the whole call stack, which took half of a trace."""
    made = []
    init = FakeTensorMode.__init__

    def count(self, **options):
        made.append(self)
        init(self, **options)

    def steps(x):
        for _ in range(5):
            x = torch.func.vmap(torch.func.grad(torch.sin))(x) @ x.diag()
        return x

    x = torch.ones(2)
    monkeypatch.setattr(FakeTensorMode, "__init__", count)
    ours = compat.trace_graph(steps, x)
    assert len(made) == 1
    theirs = make_fx(steps)(x)
    assert len(made) > 10
    assert ours.code == theirs.code
    for one, other in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
        if one.op != "output":
            assert one.meta["val"].shape == other.meta["val"].shape
            assert one.meta["val"].stride() == other.meta["val"].stride()
            assert one.meta["val"].dtype == other.meta["val"].dtype


def test_the_unsafe_write_by_index_is_what_a_graph_holds():
    def write(x):
        y = torch.zeros(3)
        return y.index_put((torch.tensor([1]),), x)

    x = torch.ones(1)
    targets = {n.target for n in compat.trace_graph(write, x).graph.nodes}
    assert torch.ops.aten.index_put.default in targets
    y, index = torch.zeros(3), (torch.tensor([1]),)
    assert compat.UNSAFE_INDEX_PUT(y, index, x).tolist() == [0.0, 1.0, 0.0]


def test_a_trace_does_not_see_what_happens_while_modes_are_disabled():
    x = torch.full((), 2.5)

    def read(y):
        with compat.disable_modes():
            number = x.item()
        return y * number

    graph = compat.trace_graph(read, torch.ones(2))
    assert graph(torch.ones(2)).tolist() == [2.5, 2.5]


def test_inductor_compiles_a_graph_and_gives_a_list():
    graph = compat.trace_graph(
        lambda x, y: [x * y, x + y], torch.ones(4), torch.ones(4)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call = compat.compile_graph(graph, [torch.ones(4), torch.ones(4)])
    product, total = call(torch.full((4,), 2.0), torch.full((4,), 3.0))
    assert product.tolist() == [6.0] * 4
    assert total.tolist() == [5.0] * 4


def test_inductor_has_the_settings_that_are_changed(monkeypatch):
    seen = []

    def record(graph, examples, *, dynamic_shapes):
        seen.append((config.cpp.threads, config.cpp.vec_isa_ok, dynamic_shapes))
        return graph

    monkeypatch.setattr(torch._inductor, "standalone_compile", record)
    compat.compile_graph(
        compat.trace_graph(lambda x: x, torch.ones(1)), [torch.ones(1)]
    )
    assert seen == [(1, True, "from_example_inputs")]


def test_inductor_can_forget_which_instructions_it_found():
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    assert callable(valid_vec_isa_list.cache_clear)


def test_the_version_of_a_tensor_grows_with_each_write():
    x = torch.ones(2)
    before = compat.version_of(x)
    x.add_(1)
    assert compat.version_of(x) == before + 1


def test_a_dirichlet_draw_can_be_mapped_and_is_torchs_own():
    a = torch.tensor([2.0, 3.0, 4.0], dtype=FLOAT)
    torch.manual_seed(0)
    ours = compat.draw_dirichlet(a)
    torch.manual_seed(0)
    assert torch.equal(ours, torch.distributions.Dirichlet(a).sample())
    mapped = torch.func.vmap(compat.draw_dirichlet, randomness="different")
    rows = mapped(a.expand(5, 3))
    assert rows.shape == (5, 3)
    assert len(set(rows[:, 0].tolist())) == 5


def test_a_beta_holds_a_dirichlet_of_two_concentrations():
    beta = torch.distributions.Beta(torch.tensor(2.0), torch.tensor(3.0))
    inner = compat.dirichlet_of_beta(beta)
    assert inner.concentration.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "distribution",
    [
        torch.distributions.OneHotCategorical(torch.tensor([0.25, 0.75])),
        torch.distributions.Multinomial(4, torch.tensor([0.25, 0.75])),
    ],
    ids=lambda d: type(d).__name__,
)
def test_trials_of_several_categories_hold_a_single_trial(distribution):
    trial = compat.categorical_of(distribution)
    assert trial.probs.tolist() == [0.25, 0.75]


def test_a_distribution_can_be_kept_from_checking_values():
    normal = torch.distributions.Normal(0.0, 1.0, validate_args=True)
    assert compat.validates(normal)
    with pytest.raises(ValueError, match="Expected value"):
        normal.log_prob(torch.tensor(torch.nan))
    compat.switch_validation_off(normal)
    assert not compat.validates(normal)
    compat.check_sample(normal, torch.tensor(torch.nan))
    checking = torch.distributions.Normal(0.0, 1.0, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        compat.check_sample(checking, torch.tensor(torch.nan))
    assert normal.log_prob(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize(
    "layer", [torch.nn.Linear(3, 3), torch.nn.MultiheadAttention(4, 2)], ids=type
)
def test_a_layer_draws_its_weights_anew(layer):
    first = next(iter(layer.parameters()))
    before = first.detach().clone()
    compat.initialise_layer(layer)
    assert not torch.equal(first, before)
    compat.initialise_layer(torch.nn.ReLU())  # has no parameters: stays as it is


def test_a_recurrent_layer_checks_its_input_by_a_method():
    owner, name, replacement = compat.RNN_CHECK
    layer = owner("GRU", 1, 2)
    with pytest.raises(ValueError, match="does not match weight dtype"):
        layer.check_input(torch.zeros(3, 1, 1, dtype=FLOAT), None)
    replacement(layer, torch.zeros(3, 1, 1, dtype=FLOAT), None)
    with pytest.raises(RuntimeError, match="input_size"):
        replacement(layer, torch.zeros(3, 1, 2, dtype=FLOAT), None)
    assert getattr(owner, name) is not replacement


def test_constants_are_made_outside_all_modes():
    class Broken(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            raise AssertionError(func)

    kept = []

    def traced(x):
        with compat.constants(), Broken(), compat.constants():
            kept.append(torch.ones(2).exp() + 1)
        return 2 * x

    graph = compat.trace_graph(traced, torch.ones(()))
    names = [str(node.target) for node in graph.graph.nodes if node.op != "output"]
    assert names == ["x_1", "aten.mul.Tensor"]
    assert float(kept[0].sum()) == pytest.approx(2 * (torch.e + 1))


def test_lists_of_tensors_are_changed_one_by_one():
    values = [torch.arange(3.0), torch.ones(2, 2)]
    others = [torch.ones(3), torch.full((2, 2), 3.0)]
    differences = compat.subtract_each(values, others)
    expected = [a - b for a, b in zip(values, others, strict=True)]
    assert all(map(torch.equal, differences, expected))
    norms = compat.norm_of_each(differences)
    assert [float(x) for x in norms] == pytest.approx([2**0.5, 4.0])
    compat.multiply_each(differences, [torch.tensor(2.0), torch.tensor(0.5)])
    compat.take_from_each(values, differences)
    assert values[0].tolist() == [2.0, 1.0, 0.0]
    assert values[1].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_forward_mode_is_loaded_without_a_warning():
    """In a process of its own: torch warns at its first use alone."""
    lines = [
        "import torch",
        "from pyro_geo._compat.torch import load_forward_mode",
        "load_forward_mode()",
        "one = torch.ones(2)",
        "torch.func.jvp(lambda x: x.sum(), (one,), (one,))",
    ]
    command = [
        sys.executable,
        "-W",
        "error::DeprecationWarning",
        "-c",
        "\n".join(lines),
    ]
    assert subprocess.run(command, check=False).returncode == 0
