r"""Inertia: what the kinetic energy is multiplied with, so that steps can be longer.

Leapfrog steps of length `h` do not keep the energy, but for a normal density in its own
metric they keep

.. math:: (1 - \tfrac14 h^2) \, U(q) + \tfrac12 v^\top \Sigma^{-1} v

exactly, up to a constant. So with the kinetic energy divided by :math:`1 - h^2 / 4`,
at the start where velocities are drawn as at the end, no trajectory is rejected however
long its steps. Any factor leaves the density invariant: the steps keep volume and can
be followed back whatever the energy. For other densities the best number in place of 1
is measured in warm-up.

References:
    Casas, Sanz-Serna & Shaw (2022), Split Hamiltonian Monte Carlo revisited, arXiv
    2207.07516, for integrators that are exact for a normal density; this form is
    derived.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["InertiaSearch", "inertia_of", "inertia_update"]

_MEMORY = 0.95  # of the running sums
_MOST = 0.75  # share of the potential energy that may be given up


class InertiaSearch(NamedTuple):
    """Regression of the change of energy on the change of potential.

    Attributes:
        product: running sum of their products.
        square: running sum of the squares of the second.
    """

    product: float = 0.0
    square: float = 0.0

    @property
    def frequency(self) -> float:
        """Mean square of the frequencies in the metric, 1 for a normal density."""
        if not self.square > 0:
            return 0.0
        return max(0.0, self.product / self.square)


def inertia_of(frequency: float, step_size: float) -> float:
    r"""Factor of the kinetic energy, :math:`1 / (1 - \tfrac14 f h^2)`.

    Args:
        frequency: `f`, from :class:`InertiaSearch`.
        step_size: `h`.

    Returns:
        The factor, from 1 to 4.

    Example:
        >>> round(inertia_of(1.0, 1.0), 3)
        1.333
    """
    return 1 / (1 - min(frequency * step_size**2 / 4, _MOST))


def inertia_update(
    search: InertiaSearch,
    potential: Tensor,
    kinetic: Tensor,
    acceptance: Tensor,
    step_size: float,
) -> InertiaSearch:
    r"""Take in the trajectories of one transition.

    The frequency minimises :math:`\sum (\Delta U + \Delta K - \tfrac14 f h^2 \Delta U
    )^2`, weighted by acceptance.

    Args:
        search: the search.
        potential: changes of the potential, `(chains,)`.
        kinetic: changes of the kinetic energy, without the factor, `(chains,)`.
        acceptance: acceptance rates, `(chains,)`.
        step_size: of the leapfrog steps.

    Returns:
        The search with the trajectories; as it was where none is finite.
    """
    usable = potential.isfinite() & kinetic.isfinite() & (acceptance > 0)
    if not bool(usable.any()):
        return search
    change, weight = potential[usable].double(), acceptance[usable].double()
    part = 0.25 * step_size**2 * change
    lost = change + kinetic[usable].double()
    return InertiaSearch(
        _MEMORY * search.product + float((weight * lost * part).sum()),
        _MEMORY * search.square + float((weight * part.square()).sum()),
    )
