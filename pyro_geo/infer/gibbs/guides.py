"""Draws of a guide with their density, its own auxiliary sites integrated out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.guide_sites import (
    GuideSites,
    automatic_sites,
    read_sites,
)
from pyro_geo.infer.gibbs.rows import Examples
from pyro_geo.infer.gibbs.taint import dependence
from pyro_geo.ops.random import private_randomness

__all__ = ["GuideDraws", "GuideProgram", "draw_guide"]

_MOST_VALUES = 4_096  # joint values of discrete auxiliary sites
_COMPARED = 64  # runs that are repeated with other auxiliary values


class GuideProgram(NamedTuple):
    """A guide whose density can be computed, and how.

    Attributes:
        guide: the guide.
        arguments: what it is called with.
        automatic: sites of Pyro's automatic guides; an exact map ties them together.
        summed: discrete auxiliary sites, which are summed out.
        dropped: auxiliary sites that no other site depends on.
        assignments: joint values of the summed sites; one empty one without any.
    """

    guide: Callable[..., Any]
    arguments: tuple[Any, ...]
    automatic: frozenset[str]
    summed: tuple[str, ...]
    dropped: tuple[str, ...]
    assignments: tuple[dict[str, Tensor], ...]

    def at(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """Run the guide with some of its sites at values.

        Args:
            values: by name.

        Returns:
            All its sites by name.
        """
        run = poutine.condition(self.guide, data=dict(values))
        return random_sites(poutine.trace(run).get_trace(*self.arguments))


class GuideDraws(NamedTuple):
    """Draws of a guide.

    Attributes:
        q: positions, `(draws, dim)`.
        log_q: density of the constrained values there, `(draws,)`.
        sites: statements of each run.
        program: the guide.
    """

    q: Tensor
    log_q: Tensor
    sites: tuple[GuideSites, ...]
    program: GuideProgram


def draw_guide(
    guide: Callable[..., Any],
    arguments: tuple[Any, Any],
    target: Target,
    num_draws: int,
    seed: int,
) -> GuideDraws:
    r"""Draw from a guide, and compute the density of what it puts on the latent sites.

    Its auxiliary sites must not count: what is divided by is

    .. math:: q(\theta) = \sum_a q(a)\, q(\theta \mid a)

    Auxiliary sites that no other site depends on drop out, discrete ones are summed
    out, and those of Pyro's automatic guides are tied to the latent sites by a map
    whose Jacobian is known. Anything else has no density that could be computed, and is
    a :class:`~pyro_geo.errors.ConfigurationError`.

    Args:
        guide: trained on `model.pyro_model(beta)`.
        arguments: of the model and of the loss, which it is called with.
        target: of the Gibbs model.
        num_draws: how many.
        seed: of the draws; the global random state is left alone.

    Returns:
        The draws.
    """
    layout = target.layout
    with torch.no_grad(), private_randomness(seed):
        # one at a time: a guide may be any program, and need not be vectorised
        traces = [poutine.trace(guide).get_trace(*arguments) for _ in range(num_draws)]
    with torch.no_grad(), private_randomness(seed + 1):
        automatic = automatic_sites(guide, arguments, layout)
        runs = tuple(read_sites(trace, layout, automatic) for trace in traces)
        _check_same_sites(runs)
        program = _program(guide, arguments, automatic, runs)
        _check_repeats(program, runs)
        _check_data(program, seed)
        rows = [
            target.unconstrain({n: run.latent[n]["value"] for n in layout.sites})
            for run in runs
        ]
        log_q = _marginal(program, runs) if program.summed else _plain(program, runs)
    return GuideDraws(torch.stack(rows), log_q, runs, program)


def _plain(program: GuideProgram, runs: Sequence[GuideSites]) -> Tensor:
    """Density without sites to sum out: that of all sites that count."""
    logs = []
    for run in runs:
        sites = {**run.auxiliary, **run.latent}
        logs.append(
            sum(
                s["fn"].log_prob(s["value"]).sum().double()
                for name, s in sites.items()
                if name not in program.dropped
            )
        )
    return torch.stack([torch.as_tensor(x) for x in logs])


# -- what the auxiliary sites are -----------------------------------------------------


def _check_same_sites(runs: Sequence[GuideSites]) -> None:
    for run in runs:
        if changed := run.names ^ runs[0].names:
            raise ConfigurationError(
                "the sites of the guide change between runs",
                where=f"argument guide, site {min(changed)!r}",
                found="a site that is not in every run",
                expected="the same sites in every run",
                todo="Sample them always, and choose by torch.where.",
            )


def _program(
    guide: Callable[..., Any],
    arguments: tuple[Any, ...],
    automatic: frozenset[str],
    runs: Sequence[GuideSites],
) -> GuideProgram:
    own = [name for name in runs[0].auxiliary if name not in automatic]
    plain = GuideProgram(guide, arguments, automatic, (), (), ({},))
    if not own:
        return plain
    finite = [n for n in own if _is_finite(runs[0].auxiliary[n])]
    others = [n for n in own if n not in finite]
    latent = list(runs[0].latent)
    # those with infinitely many values must not matter to anything that counts
    _check_independent(plain, runs, others, [*latent, *finite])
    if not finite or _independent(plain, runs, finite, latent):
        return plain._replace(dropped=tuple(own))
    return plain._replace(
        summed=tuple(finite),
        dropped=tuple(others),
        assignments=tuple(_assignments(runs, finite)),
    )


def _is_finite(site: Any) -> bool:
    return bool(getattr(site["fn"], "has_enumerate_support", False))


def _independent(
    program: GuideProgram,
    runs: Sequence[GuideSites],
    marked: Sequence[str],
    sites: Sequence[str],
) -> bool:
    return _dependent(program, runs, marked, sites) is None


def _check_independent(
    program: GuideProgram,
    runs: Sequence[GuideSites],
    marked: Sequence[str],
    sites: Sequence[str],
) -> None:
    name = _dependent(program, runs, marked, sites) if marked else None
    if name is not None:
        raise ConfigurationError(
            "auxiliary sites of the guide cannot be integrated out",
            where=f"argument guide, site {marked[0]!r}",
            found=f"site {name!r} may depend on {', '.join(map(repr, marked))}",
            expected="auxiliary sites of finitely many values, or that nothing "
            "depends on, or those of Pyro's automatic guides, passed as they are",
            todo="Sample the latent site from one distribution with a density: "
            "dist.TransformedDistribution for a map, MixtureSameFamily for a mixture.",
        )


def _dependent(
    program: GuideProgram,
    runs: Sequence[GuideSites],
    marked: Sequence[str],
    sites: Sequence[str],
) -> str | None:
    """Find a site that may depend on the marked ones; None where none does."""
    found = dependence(program.guide, program.arguments, marked)
    if (name := found.on(marked, sites)) is not None:
        return name
    # a copy is not followed: the numbers must be the same with other values, too
    for index, run in enumerate(runs):
        other = runs[(index + 1) % len(runs)]
        everything = {**run.latent, **run.auxiliary}
        values = {n: s["value"] for n, s in everything.items()}
        values |= {n: other.auxiliary[n]["value"] for n in marked}
        again = program.at(values)
        for name in sites:
            if not _equal(_score(everything[name]), _score(again[name])):
                return name
    return None


def _assignments(
    runs: Sequence[GuideSites], names: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """List the joint values of discrete sites."""
    choices: list[tuple[str, torch.Size, Tensor, int]] = []
    total = 1
    for name in names:
        supports = [
            r.auxiliary[name]["fn"].enumerate_support(expand=False) for r in runs[:2]
        ]
        event = len(runs[0].auxiliary[name]["fn"].event_shape)
        shape = runs[0].auxiliary[name]["value"].shape
        support = supports[0]
        entries = shape[: len(shape) - event].numel()
        fixed = torch.equal(support, supports[-1])
        flat = support.reshape(len(support), *support.shape[support.dim() - event :])
        total *= len(support) ** entries
        if total > _MOST_VALUES or not fixed:
            raise ConfigurationError(
                "auxiliary sites of the guide have too many values to sum over",
                where=f"argument guide, site {name!r}",
                found=f"{total} joint values",
                expected=f"at most {_MOST_VALUES}, the same in every run",
                todo="Sample the latent site from dist.MixtureSameFamily.",
            )
        choices.append((name, shape, flat, entries))
    lists = [
        [
            flat[list(rows)].reshape(shape)
            for rows in itertools.product(range(len(flat)), repeat=entries)
        ]
        for _, shape, flat, entries in choices
    ]
    for values in itertools.product(*lists):
        yield dict(zip(names, values, strict=True))


# -- the sum over discrete auxiliary sites --------------------------------------------


def _marginal(program: GuideProgram, runs: Sequence[GuideSites]) -> Tensor:
    """Log of the sum over joint values, all draws at once where the guide allows."""
    counted = [
        name
        for name in (*program.summed, *runs[0].latent, *runs[0].auxiliary)
        if name not in program.dropped
    ]
    given = {
        name: torch.stack([{**r.latent, **r.auxiliary}[name]["value"] for r in runs])
        for name in (*runs[0].latent, *runs[0].auxiliary)
        if name not in program.summed
    }
    logs = [
        _joint(program, given, assignment, dict.fromkeys(counted), runs[0].names)
        for assignment in program.assignments
    ]
    return torch.stack(logs).logsumexp(0)


def _joint(
    program: GuideProgram,
    given: Mapping[str, Tensor],
    assignment: Mapping[str, Tensor],
    counted: Mapping[str, None],
    names: frozenset[str],
) -> Tensor:
    """Density of all sites that count, at one joint value, `(draws,)`."""

    def one(values: dict[str, Tensor]) -> Tensor:
        sites = program.at({**values, **assignment})
        if changed := names ^ frozenset(sites):
            _refuse_changed(min(changed))
        return torch.stack([_score(sites[name]) for name in counted]).sum()

    with pyro.validation_enabled(False):
        try:
            return torch.func.vmap(one)(dict(given))
        except RuntimeError:  # a guide that looks at values runs one draw at a time
            count = len(next(iter(given.values())))
            rows = [{n: v[i] for n, v in given.items()} for i in range(count)]
            return torch.stack([one(row) for row in rows])


def _refuse_changed(name: str) -> None:
    raise ConfigurationError(
        "the sites of the guide depend on its discrete auxiliary sites",
        where=f"argument guide, site {name!r}",
        found="a site that is not in every run",
        expected="the same sites whatever the values",
        todo="Sample them always, and choose by torch.where or indexing.",
    )


def _score(site: Any) -> Tensor:
    return site["fn"].log_prob(site["value"]).sum().double()


# -- what else may enter --------------------------------------------------------------


def _check_repeats(program: GuideProgram, runs: Sequence[GuideSites]) -> None:
    """Refuse a guide that draws random numbers outside its sample statements."""
    for run in runs[:_COMPARED]:
        everything = {**run.latent, **run.auxiliary}
        again = program.at({n: s["value"] for n, s in everything.items()})
        for name, site in everything.items():
            if name in program.automatic:
                continue
            if not _equal(_score(site), _score(again[name])):
                raise ConfigurationError(
                    "the guide draws random numbers of its own, or changes as it runs",
                    where=f"argument guide, site {name!r}",
                    found="two densities at one value",
                    expected="distributions that depend on its sample sites alone",
                    todo="Put the random numbers into a sample statement marked "
                    "infer={'is_auxiliary': True}, and call eval() on its networks.",
                )


def _check_data(program: GuideProgram, seed: int) -> None:
    """Refuse a guide that is another distribution on other data."""
    args, targets = program.arguments
    examples = Examples.of(args, targets)
    if examples is None:
        return
    other = program._replace(arguments=examples.others(0))
    with private_randomness(seed):
        first = program.at({})
    with private_randomness(seed):
        second = other.at({})
    for name, site in first.items():
        same = name in second and _equal(site["value"], second[name]["value"])
        if not same or not _equal(_score(site), _score(second[name])):
            raise ConfigurationError(
                "the guide is another distribution on other data",
                where=f"argument guide, site {name!r}",
                found="draws that depend on the arguments of the guide",
                expected="one distribution, whatever is predicted later",
                todo="Bind the data: guide=lambda *_: guide(args, targets).",
            )


def _equal(first: Any, second: Any) -> bool:
    first, second = torch.as_tensor(first), torch.as_tensor(second)
    if first.shape != second.shape:
        return False
    both_nan = first.isnan() & second.isnan()
    return bool(((first == second) | both_nan).all())
