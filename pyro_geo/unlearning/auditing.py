r"""Audits: what a learner still holds of what it was told to forget.

Two questions, never merged. **Fidelity**: how far is the learner from a counterfactual,
one trained without the forget set in the same order from the same start? **Erasure**:
what does it still tell of the forget set? A treated memory is far from an untreated
counterfactual even where it tells nothing, so erasure is judged against a
counterfactual that had the same treatments.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pyro_geo._compat.arviz import to_container
from pyro_geo._showing import Shown
from pyro_geo.checks import check_choice, check_number
from pyro_geo.errors import ReferenceMismatchError
from pyro_geo.unlearning._measures import (
    Axis,
    Common,
    Level,
    Measure,
    Prepared,
    erasure,
    fidelity,
    prepare,
)
from pyro_geo.unlearning.probes import Probes, State
from pyro_geo.unlearning.trajectories import trajectories
from pyro_geo.unlearning.treatments import Row

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo._compat.arviz import ArvizData

__all__ = ["AuditReport", "audit"]

_NOTHING = 1e-6  # below it a difference is rounding


@dataclass(frozen=True, eq=False, repr=False)
class AuditReport(Shown):
    """What an audit has found.

    Attributes:
        table: a row for each measure against each reference: `reference` (`plain` or
            `policy-matched`), `axis`, `level`, `metric`, `value`, `null_median` and
            `null_max` over pairs of independent counterfactuals, `ratio` of the value
            to the median, `counts` for a verdict, and `passes`, None where no null pair
            says how large seeds alone make it.
        energies: forget energy of each state by name, in nats.
        policies: treatments of the unlearned learner.
        rows: of the treatments, if given.
        spectra: eigenvalues of each memory above the floor by name, falling.
        scores: Rayleigh quotients of forget and control gradients by state.
    """

    table: pd.DataFrame
    energies: dict[str, float]
    policies: tuple[str, ...]
    rows: tuple[Row, ...]
    spectra: dict[str, list[float]]
    scores: dict[str, list[float]]

    def _shown_facts(self) -> dict[str, object]:
        counted: Any = self.table[self.table["counts"]]
        judged = [value for value in counted["passes"] if value is not None]
        passed = f"{sum(map(bool, judged))} of {len(judged)}"
        names = ", ".join(self.policies) or "none"
        return {"treatments": names, "measures in their band": passed}

    def _shown_table(self) -> pd.DataFrame:
        return self.table

    def passed(self, level: Level | None = None, axis: Axis | None = None) -> bool:
        """Give a verdict.

        Fidelity is judged against the policy-matched counterfactual where there is one,
        erasure against it alone.

        Args:
            level: 0 for predictions, 1 for parameters and gradients, 2 for memories;
                None for all.
            axis: `"fidelity"` or `"erasure"`; None for both.

        Returns:
            Whether every measure is inside its null band; one without a band is not.

        Raises:
            ReferenceMismatchError: erasure cannot be judged, since the learner was
                treated and no counterfactual had the same treatments.
        """
        check_choice("level", level, (None, 0, 1, 2))
        check_choice("axis", axis, (None, "fidelity", "erasure"))
        table: Any = self.table[self.table["counts"]]
        matched = table["reference"] == "policy-matched"
        if matched.any():
            table = table[matched]
        if axis != "fidelity" and not (table["axis"] == "erasure").any():
            raise ReferenceMismatchError(
                "erasure cannot be judged",
                where="argument policy_matched",
                found=f"a learner treated with {list(self.policies)}, and an untreated "
                "counterfactual alone",
                expected="a counterfactual with the same treatments",
                todo="Treat the counterfactual with treatment.matched(), train it on "
                "as long, and pass it as policy_matched=.",
            )
        if level is not None:
            table = table[table["level"] == level]
        if axis is not None:
            table = table[table["axis"] == axis]
        return all(value is not None and bool(value) for value in table["passes"])

    def to_arviz(self) -> ArvizData:
        """Put the audit into the container of the installed ArviZ.

        Returns:
            A group `audit` with `value`, `null_median` and `null_max` over
            `(reference, metric)`, and a group `unlearning` with the trajectories over
            `(treatment, step, metric)` if there are any.
        """
        import xarray as xr

        wide = {
            name: self.table.pivot_table(
                index="reference",
                columns="metric",
                values=name,
                dropna=False,
                sort=False,
            )
            for name in ("value", "null_median", "null_max")
        }
        dims = ("reference", "metric")
        first = wide["value"]
        coords = {"reference": list(first.index), "metric": list(first.columns)}
        content = {
            name: (dims, frame.reindex(first.index)[first.columns].to_numpy())
            for name, frame in wide.items()
        }
        facts = {"policies": ", ".join(self.policies) or "none"}
        groups = {"audit": xr.Dataset(content, coords=coords, attrs=facts)}
        if self.rows:
            groups["unlearning"] = trajectories(self.rows)
        return to_container(groups)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
    ) -> Path:
        """Write a page with verdicts, tables and pictures.

        Args:
            path: the file.
            title: heading; named after the treatments if None.

        Returns:
            The path.
        """
        from pyro_geo.unlearning._audit_page import write_page

        return write_page(self, path, title)


def audit(
    unlearned: State,
    counterfactual: State,
    *,
    probes: Probes,
    null: Sequence[State] = (),
    policy_matched: State | None = None,
    rows: Sequence[Row] = (),
    rel: float = 1e-3,
) -> AuditReport:
    r"""Compare an unlearned learner with what never saw the forget set.

    A measure passes where it is at most the largest of the same measure between pairs
    of independent counterfactuals: those of `null` and the reference itself. With `n`
    such pairs that were as far apart as the learner and its reference, about one
    measure in `n + 1` fails by chance. Learners share start and order with their
    counterfactual, so that ratios far below 1 are usual, and say nothing about erasure.

    Args:
        unlearned: the learner after deletion.
        counterfactual: trained without the forget set: same start, same order.
        probes: data, and what the model makes of them.
        null: counterfactuals of other seeds; treated ones serve `policy_matched`,
            untreated ones `counterfactual`.
        policy_matched: the counterfactual after the same treatments and as many steps.
        rows: of the treatments, for the report and ArviZ.
        rel: floor of the memories, as a share of their mean eigenvalue; distances at a
            tenth and ten times as much are given too.

    Returns:
        Measures, verdicts and pictures. A reference that has other parameters, a
        `policy_matched` with other treatments than the learner, and a null state with
        those of no reference are a
        :class:`~pyro_geo.errors.ReferenceMismatchError`.

    References:
        Stewart (2026), Shape of memory: a geometric analysis of machine unlearning in
        second-order optimizers, arXiv 2604.23046, and Form and function: machine
        unlearning as a problem of misaligned states, arXiv 2605.17590. Policy-matched
        counterfactuals and the forget energy are ours.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> x, y = torch.randn(8, 2), torch.arange(8) % 2
        >>> loss = torch.nn.functional.cross_entropy
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> loss(net(x), y).backward()
        >>> _ = optimizer.step()
        >>> state = State.of(optimizer)
        >>> parts = {"forget": (x[:2], y[:2]), "control": (x[2:4], y[2:4])}
        >>> probes = Probes.of_module(net, loss, **parts, retained=(x[2:], y[2:]))
        >>> audit(state, state, probes=probes).passed()
        True
    """
    check_number("rel", rel, strict=True)
    references = {"plain": counterfactual}
    if policy_matched is not None:
        references["policy-matched"] = policy_matched
        if policy_matched.policies != unlearned.policies:
            _mismatch(
                "argument policy_matched",
                f"treatments {list(policy_matched.policies)}",
                f"those of the learner, {list(unlearned.policies)}",
            )
    for name, state in references.items():
        _check_alike(unlearned, state, name)
    known = {state.policies for state in references.values()}
    for i, state in enumerate(null):
        _check_alike(unlearned, state, f"null {i}")
        if state.policies not in known:
            _mismatch(
                f"null state {i}", f"treatments {list(state.policies)}", sorted(known)
            )
    theta = counterfactual.parameters if probes.reference is None else probes.reference
    common = Common(
        probes.gradients(theta, probes.forget).double(),
        probes.gradients(theta, probes.control).double(),
    )
    own = prepare(unlearned, probes, common, rel)
    others = {n: prepare(s, probes, common, rel) for n, s in references.items()}
    seeds = [prepare(state, probes, common, rel) for state in null]
    records = []
    for name, reference in others.items():
        policies = reference.state.policies
        alike = [reference, *(s for s in seeds if s.state.policies == policies)]
        judged = policies == unlearned.policies
        records += _records(name, own, reference, alike, common, judged)
    import pandas as pd

    states = {"unlearned": own, **others}
    return AuditReport(
        pd.DataFrame(records),
        {name: one.energy for name, one in states.items()},
        unlearned.policies,
        tuple(rows),
        {name: _spectrum(one) for name, one in states.items()},
        _scores(states),
    )


def _records(
    name: str,
    own: Prepared,
    reference: Prepared,
    alike: Sequence[Prepared],
    common: Common,
    judged: bool,
) -> list[dict[str, Any]]:
    """Make the rows of one reference, with the band of its seeds."""

    def measures(one: Prepared, two: Prepared) -> list[Measure]:
        found = list(fidelity(one, two, common))
        return found + list(erasure(one, two)) if judged else found

    bands = [measures(one, two) for one, two in combinations(alike, 2)]
    records = []
    for i, measure in enumerate(measures(own, reference)):
        band = sorted(pair[i].value for pair in bands)
        median = _median(band)
        passes = None
        if measure.value <= _NOTHING:
            passes = True
        elif band:
            passes = bool(measure.value <= band[-1])
        records.append(
            {
                "reference": name,
                "axis": measure.axis,
                "level": measure.level,
                "metric": measure.name,
                "value": measure.value,
                "null_median": median,
                "null_max": band[-1] if band else math.nan,
                "ratio": measure.value / median if median > 0 else math.nan,
                "counts": measure.counts,
                "passes": passes,
            }
        )
    return records


def _median(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    half = len(values) // 2
    return values[half] if len(values) % 2 else 0.5 * (values[half - 1] + values[half])


def _spectrum(one: Prepared) -> list[float]:
    from pyro_geo.geometry.spectra import eigenvalues

    return eigenvalues(one.raised).flip(0).tolist()


def _scores(states: dict[str, Prepared]) -> dict[str, list[float]]:
    return {
        f"{name}, {kind}": scores.sort().values.tolist()
        for name, one in states.items()
        for kind, scores in one.scores._asdict().items()
    }


def _check_alike(unlearned: State, state: State, name: str) -> None:
    for what, one, two in (
        ("parameters", len(unlearned.parameters), len(state.parameters)),
        (
            "blocks of the memory",
            {k: p.dim for k, p in unlearned.memory.parts.items()},
            {k: p.dim for k, p in state.memory.parts.items()},
        ),
    ):
        if one != two:
            _mismatch(f"{what} of state {name!r}", two, one)


def _mismatch(where: str, found: object, expected: object) -> NoReturn:
    raise ReferenceMismatchError(
        "a reference cannot be compared with the learner",
        where=where,
        found=found,
        expected=expected,
        todo="Train it from the same start in the same order without the forget set, "
        "and treat it with treatment.matched() of the same treatments.",
    )
