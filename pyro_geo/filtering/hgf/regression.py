"""Parameters of subjects that depend on their covariates, in a Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_geo._showing import Made
from pyro_geo.checks import check
from pyro_geo.filtering.hgf.covariates import Design, Table, design

__all__ = ["SubjectRegression"]

_HALF_NORMAL = dist.HalfNormal(1.0)


class SubjectRegression(Made):
    r"""One parameter of all subjects, regressed on covariates, not centred.

    .. math::
        \theta_s = g\Bigl(\sum_k X_{sk} \beta_k + \sum_g \sigma_g z_{g(s)}
        + \sigma z_s\Bigr), \qquad z \sim \mathrm N(0, 1)

    Called inside a Pyro model it samples the sites `omega_intercept`, `omega_age`, ...
    for the coefficients, `omega_sd` and `omega_z` for what they leave unexplained, and
    for each random intercept `omega_site_sd` and `omega_site_z`, and records the
    parameter itself as `omega`, the name on the left of the formula.

    Args:
        formula: such as `omega ~ 1 + age + group`, see
            :func:`~pyro_geo.filtering.hgf.covariates.parse_formula`.
        table: columns by name with a row for each subject, a data frame for one.
        link: from the real line to the parameter's range, `torch.exp` for a positive
            one; None for the identity.
        intercept: prior of the intercept.
        slope: prior of the other coefficients.
        spread: prior of the standard deviations; None for subjects that do not differ
            but by their covariates.
        priors: priors of single coefficients, by name of the column of the design.
        subjects: identities in the order of the data; the rows are then put in it.
        by: column of the identities, needed with `subjects`.

    Example:
        >>> table = {"age": [20.0, 30.0], "group": ["control", "patient"]}
        >>> omega = SubjectRegression(
        ...     "omega ~ 1 + scale(age) + group",
        ...     table,
        ...     intercept=dist.Normal(-3.0, 2.0),
        ... )
        >>> omega.columns
        ('intercept', 'age', 'group_patient')
        >>> omega().shape
        torch.Size([2])
    """

    def __init__(
        self,
        formula: str,
        table: Table,
        *,
        link: Callable[[Tensor], Tensor] | None = None,
        intercept: TorchDistribution | None = None,
        slope: TorchDistribution | None = None,
        spread: TorchDistribution | None = _HALF_NORMAL,
        priors: Mapping[str, TorchDistribution] | None = None,
        subjects: Sequence[Any] | None = None,
        by: str | None = None,
    ) -> None:
        self.design: Design = design(
            formula, table, subjects=subjects, by=by, dtype=torch.float64
        )
        self.link = link
        self.spread = spread
        own = dict(priors or {})
        for name in own:
            known = ", ".join(self.columns)
            check(name in self.columns, "priors", name, f"among {known}")
        first = dist.Normal(0.0, 1.0) if intercept is None else intercept
        other = dist.Normal(0.0, 1.0) if slope is None else slope
        self.priors: dict[str, TorchDistribution] = {
            name: own.get(name, first if name == "intercept" else other)
            for name in self.columns
        }

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.design.response

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the coefficients."""
        return self.design.columns

    def __call__(self, plate: Any = None) -> Tensor:
        """Sample the parameter of all subjects.

        Args:
            plate: of the subjects, made by `pyro.plate` with as many; None to sample
                them as one event.

        Returns:
            The parameter, `(subjects,)`.
        """
        count = len(self.design.matrix)
        mean: Tensor | None = None
        for name, column in zip(
            self.columns, self.design.matrix.unbind(-1), strict=True
        ):
            beta = pyro.sample(self._site(name), self.priors[name])
            part = column.to(beta) * beta
            mean = part if mean is None else mean + part
        total = torch.zeros(count) if mean is None else mean
        for group, (index, levels) in self.design.groups.items():
            prior = _HALF_NORMAL if self.spread is None else self.spread
            sd = pyro.sample(self._site(group, "sd"), prior)
            unit = dist.Normal(torch.zeros_like(total[:1]).expand(len(levels)), 1.0)
            z = pyro.sample(self._site(group, "z"), unit.to_event(1))
            total = total + sd * z[index]
        if self.spread is not None:
            sd = pyro.sample(self._site("sd"), self.spread)
            unit = dist.Normal(torch.zeros_like(total), 1.0)
            if plate is None:
                z = pyro.sample(self._site("z"), unit.to_event(1))
            else:
                with plate:
                    z = pyro.sample(self._site("z"), unit)
            total = total + sd * z
        value = total if self.link is None else self.link(total)
        if plate is None:
            return pyro.deterministic(self.name, value, event_dim=1)
        with plate:
            return pyro.deterministic(self.name, value, event_dim=0)

    def _site(self, *parts: str) -> str:
        return "_".join((self.name, *parts))
