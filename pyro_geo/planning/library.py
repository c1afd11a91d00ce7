"""Action values under many draws of the dynamics, learned before any data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_geo._showing import notebook
from pyro_geo.checks import check_shape
from pyro_geo.planning.backends import ValueBackend
from pyro_geo.planning.priors import Prior

if TYPE_CHECKING:
    from pyro_geo.planning.environments import Plant
    from pyro_geo.planning.offline import OfflinePlanner

__all__ = ["OfflineLibrary"]


class OfflineLibrary:
    """What the offline stage leaves: draws of the dynamics with their action values.

    :class:`~pyro_geo.planning.OfflinePlanner` makes it.

    Args:
        theta: draws that were solved, `(N, P)`.
        tensors: what the backend has learned of them, the first axis theirs.
        diagnostics: name to one number for each draw, `(N,)`.
        backend: answers questions of values.
        prior: that the draws are of; None where they are all there are.
        plant: the dynamics, where there is a simulator.
        parameters: names of the columns of `theta`.
        failed: number of a draw to what was wrong with it.
        seed: of the planner.

    Attributes:
        theta: as given.
        failed: as given.
    """

    def __init__(
        self,
        theta: Tensor,
        tensors: Mapping[str, Tensor],
        *,
        backend: ValueBackend,
        diagnostics: Mapping[str, Tensor] | None = None,
        prior: Prior | None = None,
        plant: Plant | None = None,
        parameters: Sequence[str] = (),
        failed: Mapping[int, str] | None = None,
        seed: int = 0,
    ) -> None:
        check_shape("theta", theta.shape, "(N, P)", theta.dim() == 2 and len(theta) > 0)
        for name, value in tensors.items():
            check_shape(f"tensors[{name!r}]", value.shape[:1], (len(theta),))
        self.theta, self.tensors = theta, dict(tensors)
        self.backend, self.prior, self.plant = backend, prior, plant
        self.diagnostics = dict(diagnostics or {})
        count = theta.shape[1]
        self.parameters = tuple(parameters) or tuple(
            f"theta[{i}]" for i in range(count)
        )
        self.failed, self.seed = dict(failed or {}), seed
        self._low, self._width = theta.amin(0), theta.amax(0) - theta.amin(0)

    def __len__(self) -> int:
        return len(self.theta)

    def q(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Give the action values of some states under each draw.

        Args:
            s: states, `(m, ...)`.

        Returns:
            Mean and variance, `(N, m, A)`.
        """
        with torch.no_grad():
            return self.backend.q(self.tensors, s)

    def unit(self, theta: Tensor) -> Tensor:
        """Scale parameters to the unit cube, by the prior where there is one.

        Args:
            theta: parameters, `(..., P)`.

        Returns:
            Numbers from 0 to 1, `(..., P)`.
        """
        if self.prior is not None:
            return self.prior.unit(theta)
        width = torch.where(self._width > 0, self._width, 1)
        return ((theta - self._low) / width).double()

    def joined(self, other: OfflineLibrary) -> OfflineLibrary:
        """Put further draws behind these.

        Args:
            other: further draws, solved by the same backend.

        Returns:
            A library of all.
        """

        def both(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.cat([a[name], b[name]]) for name in a}

        shift = len(self) + len(self.failed)
        later = {shift + number: why for number, why in other.failed.items()}
        return OfflineLibrary(
            torch.cat([self.theta, other.theta]),
            both(self.tensors, other.tensors),
            backend=self.backend,
            diagnostics=both(self.diagnostics, other.diagnostics),
            prior=self.prior,
            plant=self.plant,
            parameters=self.parameters,
            failed={**self.failed, **later},
            seed=self.seed,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the draws and what was learned to a file, as plain tensors.

        Args:
            path: of the file.
        """
        parts = {f"value.{name}": value for name, value in self.tensors.items()}
        parts |= {f"note.{name}": value for name, value in self.diagnostics.items()}
        failed = {str(number): why for number, why in self.failed.items()}
        torch.save(
            {"theta": self.theta, **parts, "failed": failed, "seed": self.seed}, path
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], planner: OfflinePlanner
    ) -> OfflineLibrary:
        """Read a file; no code in it is run.

        Args:
            path: of the file.
            planner: with the backend, the prior and the plant of the library.

        Returns:
            The library.
        """
        parts = torch.load(path, weights_only=True)

        def own(kind: str) -> dict[str, Tensor]:
            start = len(kind) + 1
            return {k[start:]: v for k, v in parts.items() if k.startswith(f"{kind}.")}

        return cls(
            parts["theta"],
            own("value"),
            backend=planner.backend,
            diagnostics=own("note"),
            prior=None if isinstance(planner.prior, Tensor) else planner.prior,
            plant=planner.plant,
            parameters=planner.parameters,
            failed={int(number): why for number, why in parts["failed"].items()},
            seed=parts["seed"],
        )

    def _repr_html_(self) -> str:
        """Show the draws in a notebook, and how many have failed."""
        facts = {"draws": len(self), "parameters": ", ".join(self.parameters)}
        lost = len(self.failed)
        notes = [f"{lost} draws could not be solved."] * (lost > 0)
        return notebook(repr(self), facts, notes)

    def __repr__(self) -> str:
        lost = f", {len(self.failed)} failed" if self.failed else ""
        return (
            f"OfflineLibrary({len(self)} draws of {', '.join(self.parameters)}{lost})"
        )
