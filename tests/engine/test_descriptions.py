"""Functions and objects as JSON: what counts, and what does not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_geo.engine.descriptions import describe, tensors_in
from pyro_geo.engine.identity import check_same
from pyro_geo.errors import CheckpointError


def made(text: str, name: str = "f") -> Any:
    """What a piece of source text defines, as in a module of the user's."""
    space: dict[str, Any] = {"__name__": "users", "torch": torch, "np": np, "nn": nn}
    exec(compile(textwrap.dedent(text), "users.py", "exec"), space)
    return space[name]


SAME = {
    "comment": ("f = lambda x: x + 1", "# note\n\n\nf = lambda x: x + 1"),
    "docstring": (
        "def f(x):\n    return x + 1.5",
        'def f(x):\n    """Add."""\n    return x + 1.5',
    ),
    "name of the function": ("f = lambda x: x * 2", "def g(x): return x * 2\nf = g"),
    "what it does not read": ("k = 1\nf = lambda x: x", "k = 2\nf = lambda x: x"),
    "order of a set": (
        "f = lambda x: x in {'a', 'b', 'c', 'd'}",
        "f = lambda x: x in {'d', 'c', 'b', 'a'}",
    ),
}
BASE = "import functools\n"
OTHER = {
    "constant": ("f = lambda x: 2 * x", "f = lambda x: 3 * x"),
    "sign of zero": ("f = lambda x: x + 0.0", "f = lambda x: x + -0.0"),
    "type of a constant": ("f = lambda x: x * 1", "f = lambda x: x * 1.0"),
    "operation": ("f = lambda x: x + 1", "f = lambda x: x - 1"),
    "attribute": ("f = lambda x: torch.sin(x)", "f = lambda x: torch.cos(x)"),
    "order of arguments": ("def f(a, b): return a - b", "def f(b, a): return a - b"),
    "default": ("def f(x, k=1): return x * k", "def f(x, k=2): return x * k"),
    "keyword default": ("def f(x, *, k=1): return x * k", "def f(x, *, k=2): return x"),
    "nested": (
        "def f(x): return [y + 1 for y in x]",
        "def f(x): return [y + 2 for y in x]",
    ),
    "nested lambda": (
        "def f(x): return map(lambda y: y + 1, x)",
        "def f(x): return map(lambda y: y + 2, x)",
    ),
    "global": ("k = 1\nf = lambda x: k * x", "k = 2\nf = lambda x: k * x"),
    "global of a nested one": (
        "k = 1\nf = lambda x: [k * y for y in x]",
        "k = 2\nf = lambda x: [k * y for y in x]",
    ),
    "global tensor": (
        "k = torch.ones(3)\nf = lambda x: k * x",
        "k = torch.ones(3) + 1e-7\nf = lambda x: k * x",
    ),
    "helper": (
        "g = lambda x: x\nf = lambda x: g(x)",
        "g = lambda x: 2 * x\nf = lambda x: g(x)",
    ),
    "closure": (
        "def m(k): return lambda x: k * x\nf = m(1)",
        "def m(k): return lambda x: k * x\nf = m(2)",
    ),
    "closure of an array": (
        "def m(k): return lambda x: k * x\nf = m(np.zeros(3))",
        "def m(k): return lambda x: k * x\nf = m(np.ones(3))",
    ),
    "partial": (
        BASE + "f = functools.partial(lambda k, x: k * x, 1)",
        BASE + "f = functools.partial(lambda k, x: k * x, 2)",
    ),
    "keyword of a partial": (
        BASE + "f = functools.partial(lambda x, k: k * x, k=1)",
        BASE + "f = functools.partial(lambda x, k: k * x, k=2)",
    ),
    "wrapped": (
        BASE + "f = functools.lru_cache(lambda x: x)",
        BASE + "f = functools.lru_cache(lambda x: -x)",
    ),
    "under vmap": (
        "f = torch.func.vmap(lambda x: x)",
        "f = torch.func.vmap(lambda x: -x)",
    ),
    "state of an object": (
        "class C:\n  def __init__(s, k): s._k = k\n  def __call__(s, x): return x\n"
        "f = C(1)",
        "class C:\n  def __init__(s, k): s._k = k\n  def __call__(s, x): return x\n"
        "f = C(2)",
    ),
    "code of an object": (
        "class C:\n  def __call__(s, x): return x\nf = C()",
        "class C:\n  def __call__(s, x): return -x\nf = C()",
    ),
    "attribute of a class": (
        "class C:\n  k = 1\n  def __call__(s, x): return s.k * x\nf = C()",
        "class C:\n  k = 2\n  def __call__(s, x): return s.k * x\nf = C()",
    ),
    "code of a base class": (
        "class B:\n  def __call__(s, x): return x\nclass C(B): pass\nf = C()",
        "class B:\n  def __call__(s, x): return -x\nclass C(B): pass\nf = C()",
    ),
    "slots": (
        "class C:\n  __slots__ = ('k',)\n  def __call__(s, x): return x\n"
        "f = C()\nf.k = 1",
        "class C:\n  __slots__ = ('k',)\n  def __call__(s, x): return x\n"
        "f = C()\nf.k = 2",
    ),
    "bound method": (
        "class C:\n  k = 1\n  def m(s, x): return x\nf = C().m",
        "class C:\n  k = 1\n  def m(s, x): return -x\nf = C().m",
    ),
    "object of a bound method": (
        "class C:\n  def __init__(s, k): s.k = k\n  def m(s, x): return x\nf = C(1).m",
        "class C:\n  def __init__(s, k): s.k = k\n  def m(s, x): return x\nf = C(2).m",
    ),
    "weights of a module": (
        "f = nn.Linear(2, 1)\nnn.init.zeros_(f.weight)\nnn.init.zeros_(f.bias)",
        "f = nn.Linear(2, 1)\nnn.init.ones_(f.weight)\nnn.init.zeros_(f.bias)",
    ),
    "layers of a module": (
        "f = nn.Sequential(nn.ReLU())",
        "f = nn.Sequential(nn.ELU())",
    ),
    "number of a layer": ("f = nn.Dropout(0.1)", "f = nn.Dropout(0.2)"),
    "forward of a module": (
        "class C(nn.Module):\n  def forward(s, x): return x\nf = C()",
        "class C(nn.Module):\n  def forward(s, x): return -x\nf = C()",
    ),
    "a function of torch": ("f = torch.sin", "f = torch.cos"),
    "a method of torch": ("f = torch.Tensor.sin", "f = torch.Tensor.cos"),
    "half precision": (
        "f = torch.zeros(2, dtype=torch.bfloat16)",
        "f = torch.ones(2, dtype=torch.bfloat16)",
    ),
    "shape": ("f = torch.zeros(2, 3)", "f = torch.zeros(3, 2)"),
    "conjugate": (
        "f = torch.tensor([1j])",
        "f = torch.tensor([1j]).conj()",
    ),
    "sparse": ("f = torch.eye(3).to_sparse()", "f = (2 * torch.eye(3)).to_sparse()"),
    "not a number": ("f = float('nan')", "f = float('inf')"),
}


@pytest.mark.parametrize("texts", [pytest.param(v, id=k) for k, v in SAME.items()])
def test_what_changes_nothing_does_not_count(texts):
    first, second = (describe(made(text)) for text in texts)
    assert first == second


@pytest.mark.parametrize("texts", [pytest.param(v, id=k) for k, v in OTHER.items()])
def test_what_changes_something_counts(texts):
    first, second = (describe(made(text)) for text in texts)
    assert first != second
    for text, description in zip(texts, (first, second), strict=True):
        assert describe(made(text)) == description
        check_same("here", description, description)


def test_circles_end():
    fn = made("def f(x): return f(x - 1) if x else g(x)\ndef g(x): return f(x)")
    assert describe(fn) == describe(fn)
    ring: list[Any] = [1]
    ring += [ring, ring]
    assert describe(ring) == describe(ring)
    holder = made("class C:\n  def __call__(s, x): return x\nf = C()\nf.me = f")
    assert describe(holder) == describe(holder)


def test_numbers_that_are_none_equal_themselves():
    assert describe([float("nan")]) == describe([float("nan")])


@pytest.mark.slow
def test_other_processes_describe_it_the_same():
    """Neither hashes of texts nor addresses get in."""
    text = (
        "from tests.engine.test_descriptions import OTHER, SAME, made\n"
        "from pyro_geo.engine.descriptions import describe, digest_of\n"
        "texts = [t for pairs in (OTHER, SAME) for p in pairs.values() for t in p]\n"
        "print(digest_of([describe(made(t)) for t in texts]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", text],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_the_error_says_what_changed_and_where():
    first, second = (describe(made(text)) for text in OTHER["closure"])
    with pytest.raises(CheckpointError, match=r"the store.*closure\.k.*2 now.*1"):
        check_same("the store", first, second)


def test_another_python_is_named():
    first, second = (describe(made(text)) for text in OTHER["operation"])
    with pytest.raises(CheckpointError, match=r"begun with Python 3\.9.*same text"):
        check_same("the store", first, second, python="3.9.1")


def test_tensors_are_found_but_not_the_parameters_of_modules():
    text = (
        "y = torch.ones(3)\nnet = nn.BatchNorm1d(2)\n"
        "def m(k): return lambda x: net(k * x + y)\nf = m(np.ones(2))"
    )
    found = tensors_in(describe(made(text)))
    assert set(found) == {
        "closure.k",
        "globals.y",
        "globals.net.buffers.running_mean",
        "globals.net.buffers.running_var",
        "globals.net.buffers.num_batches_tracked",
    }


def test_a_library_is_described_by_name():
    assert describe(nn.functional.softplus) == describe(nn.functional.softplus)
    assert describe(nn.functional.relu)["function"] == "torch.nn.functional.relu"
    assert describe(torch.distributions.Normal).endswith("Normal")
