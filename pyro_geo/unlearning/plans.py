"""What a deletion would do and cost, and what it has done."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_geo._showing import Shown
from pyro_geo.citations import citation
from pyro_geo.io.reports import Bars, page_title, write_report
from pyro_geo.results import PosteriorDraws
from pyro_geo.unlearning._costs import Option
from pyro_geo.unlearning.certificates import DeletionCertificate
from pyro_geo.unlearning.treatments import Row

__all__ = ["Forgotten", "Option", "DeletionPlan"]


@dataclass(frozen=True, repr=False)
class Forgotten(Shown):
    """A fit without some of its data.

    Attributes:
        fit: of the kind that was given, or draws where draws were given.
        method: how it was made.
        plan: the choice, with its reasons.
        result: what the method returned, with all its numbers.
        optimizer: treated, or made anew; None where none was given.
        treatment: what the treatment left in the optimiser's memory.
        certificate: None where none was asked for.
    """

    fit: Any
    method: str
    plan: DeletionPlan
    result: Any
    optimizer: Any = None
    treatment: Row | None = None
    certificate: DeletionCertificate | None = None

    def _shown_facts(self) -> dict[str, object]:
        own = {} if self.certificate is None else {"certificate": "yes"}
        return {"fit": _model_of(self.fit), "method": self.method, **own}

    def _shown_notes(self) -> list[str]:
        text = "" if self.certificate is None else self.certificate.text
        return [self.plan.reason, *text.splitlines()]

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the works behind the deletion."""
        own = tuple(getattr(self.result, "citations", ()))
        return own if self.treatment is None else (*own, "shape_of_memory")

    def to_dict(self) -> dict[str, Any]:
        """Return method, reasons and certificate as plain values."""
        certificate = self.certificate
        numbers = getattr(self.result, "to_dict", dict)()
        return {
            "method": self.method,
            "plan": self.plan.to_dict(),
            "result": numbers if isinstance(numbers, dict) else {},
            "certificate": None if certificate is None else certificate.to_dict(),
        }

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML page: reasons, costs, what was measured, the certificate.

        Args:
            path: the file.

        Returns:
            The path.
        """
        facts = {"method": self.method, **self.plan.facts()}
        facts |= {k: _shown(v) for k, v in _numbers(self.result).items()}
        if self.treatment is not None:
            facts["treatment"] = self.treatment.treatment
            facts |= {k: _shown(v) for k, v in self.treatment.metrics.items()}
        notes = [self.plan.reason]
        if self.certificate is not None:
            notes += self.certificate.text.splitlines()
        seconds = {o.method: o.seconds for o in self.plan.options}
        bars = [Bars("What each way would take", seconds, "seconds")]
        bars += _pictures(self.result)
        return write_report(
            None,
            path,
            title=page_title(f"Unlearning by {self.method}", _model_of(self.fit)),
            facts=facts,
            citation=citation(self),
            notes=notes,
            tables={"Ways to delete": self.plan.table()},
            bars=bars,
        )


@dataclass(frozen=True, repr=False)
class DeletionPlan(Shown):
    """How data would be deleted, before anything is run.

    Attributes:
        method: that is chosen.
        reason: why.
        options: all ways, with what each would cost.
        leverage: of the forgotten data; NaN where the choice does not need it.
        khat: predicted shape of the tail of weights; NaN likewise.
    """

    method: str
    reason: str
    options: tuple[Option, ...]
    leverage: float
    khat: float
    _run: Callable[[DeletionPlan], Forgotten] = field(repr=False, compare=False)

    def _shown_facts(self) -> dict[str, object]:
        able = sum(option.possible for option in self.options)
        return {"method": self.method, "possible ways": able, **self.facts()}

    def _shown_table(self) -> Any:
        return self.table()

    def _shown_notes(self) -> list[str]:
        return [self.reason]

    def run(self) -> Forgotten:
        """Delete, as planned."""
        return self._run(self)

    def table(self) -> Any:
        """Return the options as a table, one row for each."""
        import pandas as pd

        rows = [
            {
                "way": o.method,
                "chosen": "yes" if o.method == self.method else "",
                "possible": "yes" if o.possible else "no",
                "gradients": o.gradients,
                "seconds": o.seconds,
                "reason": o.reason,
            }
            for o in self.options
        ]
        return pd.DataFrame(rows).set_index("way")

    def facts(self) -> dict[str, str]:
        """Return leverage and predicted tail as texts, where they are known."""
        found = {"leverage": self.leverage, "predicted khat": self.khat}
        return {k: f"{v:.3f}" for k, v in found.items() if v == v}

    def explain(self) -> str:
        """Say in words what would be done, why, and what each way would cost."""
        lines = [f"{self.method}: {self.reason}"]
        for o in self.options:
            mark = "->" if o.method == self.method else "  "
            able = "" if o.possible else " (not possible here)"
            lines.append(
                f"{mark} {o.method}{able}: about {o.gradients:.3g} gradients, "
                f"{o.seconds:.2g} s; {o.reason}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all parts as plain values."""
        return {
            "method": self.method,
            "reason": self.reason,
            "leverage": self.leverage,
            "khat": self.khat,
            "options": [vars(option) for option in self.options],
        }


def _numbers(result: Any) -> dict[str, Any]:
    if isinstance(result, PosteriorDraws):
        keep = ("rung", "khat", "ess", "stages", "forgotten")
        return {k: v for k, v in result.attributes.items() if k in keep}
    numbers = getattr(result, "to_dict", dict)()
    plain = (int, float, str)
    return {k: v for k, v in numbers.items() if isinstance(v, plain)}


def _model_of(fit: Any) -> str:
    """Name what was fitted: the model of draws, or the class of a network."""
    if isinstance(fit, PosteriorDraws):
        return str(fit.attributes.get("model", "a posterior"))
    return type(fit).__name__


def _pictures(result: Any) -> list[Bars]:
    pair = getattr(result, "gradient_retained", None)
    if pair is None:
        return []
    values = {"before": pair[0], "after": pair[1]}
    return [Bars("Gradient of the retained loss", values, "norm")]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
