"""What every kernel must keep, as checks over a case.

None of these is statistical: they hold for every seed, and each check raises an
`AssertionError` that says what was broken. Run all of them on a kernel of your own
with :func:`check_all`.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.arviz import get_group
from pyro_geo._compat.torch import pytree
from pyro_geo.density import Rung, Target
from pyro_geo.engine.blocks import Block
from pyro_geo.engine.kernel import Kernel
from pyro_geo.infer.mcmc.runner import MCMC
from pyro_geo.testing._assertions import (
    assert_close,
    assert_equal,
    assert_true,
    global_state,
)
from pyro_geo.testing._driven import drive
from pyro_geo.testing._resume import check_longer, check_resume

__all__ = [
    "CHECKS",
    "Case",
    "check_all",
    "check_arviz",
    "check_global_state",
    "check_groups",
    "check_inputs",
    "check_longer",
    "check_no_warning",
    "check_output",
    "check_pickle",
    "check_repeat",
    "check_resume",
    "check_rungs",
    "check_seed",
    "check_site_order",
]


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel on a model, small enough to run in about a second.

    The target and one run are made once and shared by the checks.

    Attributes:
        name: what messages call it.
        kernel: makes a kernel from a Pyro model or a target.
        model: a well-behaved model; it must pickle for the pickles to be checked.
        args: its arguments.
        permuted: the same model with its sites in another order.
        chains: number of chains, at least 2, so that groups of chains can be compared.
        draws: draws of each chain.
        warmup: steps of warm-up, the kernel's own default if None.
        dtype: floating type.
        rounding: relative difference allowed between two ways of computing the same
            draws; a trajectory makes rounding grow.
        regrouping: the same between two ways of grouping chains; 0 demands equal bits,
            which a kernel on a fixed number of lanes gives.
        seed: of every run.

    Example:
        >>> from pyro_geo.testing.hmc import FixedHMC
        >>> target = Target.from_potential(lambda q: 0.5 * q.square().sum(), 2)
        >>> case = Case("hmc", FixedHMC, target, draws=5, warmup=0, regrouping=1e-4)
        >>> check_output(case)
        >>> check_groups(case)
    """

    name: str
    kernel: Callable[[Any], Kernel]
    model: Callable[..., Any] | Target
    args: tuple[Any, ...] = ()
    permuted: Callable[..., Any] | None = None
    chains: int = 3
    draws: int = 6
    warmup: int | None = None
    dtype: torch.dtype = torch.float32
    rounding: float = 1e-3
    regrouping: float = 0.0
    seed: int = 0

    @cached_property
    def target(self) -> Target:
        """The model's density, traced at most once."""
        if isinstance(self.model, Target):
            return self.model
        return Target.from_model(self.model, *self.args, dtype=self.dtype)

    @cached_property
    def fit(self) -> MCMC:
        """One run on the traced rung, with every warning kept aside."""
        return self.run()

    def run(self, **options: Any) -> MCMC:
        """Run the batched runner on the shared target, without warnings."""
        settings = {"seed": self.seed, "progress_bar": False, "compile": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = MCMC(
                self.kernel(self.target),
                self.draws,
                self.warmup,
                self.chains,
                **(settings | options),
            )
            return fit.run()


def check_output(case: Case) -> None:
    """Draws and statistics have the right names, shapes and dtypes, and are finite.

    Args:
        case: the case.
    """
    fit, kernel = case.fit, case.kernel(case.target)
    lead = (case.chains, case.draws)
    assert_equal(
        case, "shape of the draws", tuple(fit.positions.shape), (*lead, fit.target.dim)
    )
    assert_equal(case, "dtype of the draws", fit.positions.dtype, case.target.dtype)
    assert_true(case, "draws are finite", bool(fit.positions.isfinite().all()))
    assert_equal(
        case, "names of the statistics", list(fit.stats), list(kernel.statistics)
    )
    for name, value in fit.stats.items():
        assert_equal(case, f"shape of {name!r}", tuple(value.shape), lead)
        plain = value.dtype in (case.target.dtype, torch.long, torch.bool)
        assert_true(case, f"{name!r} is a number of the run's dtype or a count", plain)
    for name in ("lp", "diverging"):
        assert_true(case, f"the statistic {name!r} exists", name in fit.stats)
    samples = fit.get_samples(group_by_chain=True)
    for name, site in case.target.layout.sites.items():
        shape = (*lead, *site.constrained_shape)
        assert_equal(case, f"shape of site {name!r}", tuple(samples[name].shape), shape)


def check_seed(case: Case) -> None:
    """The same seed gives the same bits, another seed and other chains do not.

    Args:
        case: the case.
    """
    _same(case, "a run with the same seed", case.run(), case.fit, 0.0)
    other = case.run(seed=case.seed + 1).positions
    assert_true(
        case,
        "another seed gives other draws",
        not torch.equal(other, case.fit.positions),
    )
    for chain in range(1, case.chains):
        alike = torch.equal(case.fit.positions[0], case.fit.positions[chain])
        assert_true(case, f"chains 0 and {chain} differ", not alike)


def check_rungs(case: Case, rungs: Sequence[Rung] = ("mapped", "traced")) -> None:
    """A block gives the same draws on every rung, to rounding.

    Args:
        case: the case.
        rungs: the rungs to hold against each other.
    """
    run = drive(case)
    first: Block | None = None
    for rung in rungs:
        block = run._replace(target=case.target.with_rung(rung)).block(run.state, 0)
        assert_equal(case, "rung of the block", block.rung, rung)
        first = first or block
        assert_close(
            case, f"draws on the rung {rung!r}", block.q, first.q, case.rounding
        )


def check_site_order(case: Case) -> None:
    """A model with its sites in another order has the same density and draws.

    Args:
        case: the case; without `permuted` there is nothing to check.
    """
    if case.permuted is None:
        return
    other = Target.from_model(case.permuted, *case.args, dtype=case.dtype)
    sites, samples = case.target.layout.sites, case.fit.get_samples()
    assert_equal(
        case, "sites of the permuted model", set(other.layout.sites), set(sites)
    )
    q = case.fit.positions.flatten(0, 1)
    same = other.unconstrain(samples)
    for name in ("log_prob", "log_likelihood"):
        value, expected = getattr(other, name)(same), getattr(case.target, name)(q)
        assert_close(
            case, f"{name} of the permuted model", value, expected, case.rounding
        )
    assert_equal(case, "order of the layout", list(other.layout.sites), list(sites))
    settings: Any = {"seed": case.seed, "progress_bar": False, "compile": False}
    fit = MCMC(case.kernel(other), case.draws, case.warmup, case.chains, **settings)
    _same(case, "the permuted model", fit.run(), case.fit, case.rounding)


def check_groups(case: Case) -> None:
    """Neither the number of chains side by side nor their order changes a draw.

    Args:
        case: the case.
    """
    # a group for each chain, and groups of unequal size
    for size in {1, max(1, case.chains - 1)}:
        fit = case.run(chain_batch_size=size)
        _same(case, f"chain_batch_size={size}", fit, case.fit, case.regrouping)
    run = drive(case)
    backwards = drive(case, list(run.chains)[::-1])
    reversed_back = backwards.block(backwards.state, 0).q.flip(0)
    expected = run.block(run.state, 0).q
    what = "chains in reverse order"
    assert_close(case, what, reversed_back, expected, case.regrouping)


def check_repeat(case: Case) -> None:
    """A block depends on state and noise alone: resuming changes no bit.

    Args:
        case: the case.
    """
    run = drive(case)
    first = run.block(run.state, 0)
    second = run.block(first.state, 1)
    # a pickled copy shares no memory with the state that the kernel returned
    stored = pickle.loads(pickle.dumps(first.state))
    for what, state in (("the same state", first.state), ("a stored state", stored)):
        again = run.block(state, 1)
        assert_close(case, f"a block run again from {what}", again.q, second.q, 0.0)
        for name, value in second.stats.items():
            assert_close(case, f"{name!r}, {what}", again.stats[name], value, 0.0)
    assert_close(
        case, "a block run again later", run.block(run.state, 0).q, first.q, 0.0
    )


def check_inputs(case: Case) -> None:
    """Neither data nor state are written to.

    Args:
        case: the case.
    """
    run = drive(case)
    trees = {"arguments": case.args, "data": case.target.data, "state": run.state}
    before = {name: _copies(tree) for name, tree in trees.items()}
    run.block(run.state, 0)
    case.run()
    for name, tree in trees.items():
        for tensor, copy in zip(_tensors(tree), before[name], strict=True):
            equal = torch.equal(tensor.nan_to_num(), copy.nan_to_num())
            assert_true(case, f"the {name} are untouched", equal)


def check_global_state(case: Case) -> None:
    """A run with a seed leaves global random state and settings alone.

    Args:
        case: the case.
    """
    before = global_state()
    case.run()
    for name, value in global_state().items():
        assert_true(case, f"{name} is as it was", value == before[name])


def check_pickle(case: Case) -> None:
    """A kernel pickles before and after a run and then gives the same draws.

    Args:
        case: the case, its model a function of a module.
    """
    if isinstance(case.model, Target):
        return
    run = drive(case)
    expected = run.block(run.state, 0).q
    kernel = case.kernel(case.model)
    for when in ("before", "after"):
        kernel = pickle.loads(pickle.dumps(kernel))
        again = drive(case, kernel=kernel)
        q = again.block(again.state, 0).q
        assert_close(case, f"a kernel pickled {when} a run", q, expected, 0.0)


def check_arviz(case: Case) -> None:
    """The result converts: groups, names, axes and attributes.

    Args:
        case: the case.
    """
    fit, target = case.fit, case.target
    idata = fit.to_arviz()
    posterior, stats = (_group(case, idata, n) for n in ("posterior", "sample_stats"))
    lead = ("chain", "draw")
    for name in target.layout.sites:
        assert_equal(case, f"axes of {name!r}", posterior[name].dims[:2], lead)
        named = target.dims.get(name)
        if named is not None:
            assert_equal(case, f"axes of {name!r}", posterior[name].dims[2:], named)
    assert_equal(case, "statistics", set(stats.data_vars), set(fit.kernel.statistics))
    for name, value in fit.stats.items():
        same = np.array_equal(stats[name].to_numpy(), value.numpy(), equal_nan=True)
        assert_true(case, f"{name!r} is the run's", same)
    for group in ("log_likelihood", "observed_data") if target.observed else ():
        variables = set(_group(case, idata, group).data_vars)
        complete = set(target.observed) <= variables
        assert_true(case, f"{group} has the observed sites", complete)
    for name in ("seed", "num_chains", "rung", "notes", "inference_library"):
        assert_true(case, f"attribute {name!r} is recorded", name in posterior.attrs)


def check_no_warning(case: Case) -> None:
    """A well-behaved case runs without a warning.

    Args:
        case: the case.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings: Any = {"seed": case.seed, "progress_bar": False, "compile": False}
        kernel = case.kernel(case.target)
        fit = MCMC(kernel, case.draws, case.warmup, case.chains, **settings).run()
    assert_equal(case, "warnings", [str(w.message) for w in caught], [])
    assert_equal(case, "notes", fit.notes, [])


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_output,
    check_seed,
    check_rungs,
    check_site_order,
    check_groups,
    check_repeat,
    check_resume,
    check_longer,
    check_inputs,
    check_global_state,
    check_pickle,
    check_arviz,
    check_no_warning,
)


def check_all(case: Case) -> None:
    """Run every check.

    Args:
        case: the case.
    """
    for check in CHECKS:
        check(case)


def _group(case: Case, idata: Any, name: str) -> Any:
    group = get_group(idata, name)
    assert_true(case, f"there is a group {name!r}", group is not None)
    return group


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _copies(tree: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in _tensors(tree)]


def _same(case: Case, what: str, fit: MCMC, other: MCMC, tolerance: float) -> None:
    assert_close(case, what, fit.positions, other.positions, tolerance)
