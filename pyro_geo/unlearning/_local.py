r"""Likelihoods of data that bring latents of their own, with these integrated out.

.. math:: p(z_i \mid \theta) = \int p(z_i \mid \theta, b_i)\, p(b_i \mid \theta)\, db_i

Weights of whole draws, with :math:`b_i` in them, hold for the joint posterior too, but
almost all that is known of :math:`b_i` goes with the data, so that their tail is heavy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.latents import latent_log_probs
from pyro_geo.density.partial import data_scales
from pyro_geo.errors import UnsupportedError
from pyro_geo.ops.chunks import map_chunks
from pyro_geo.unlearning._parts import Parts, impossible

__all__ = ["chi_square_quantile", "marginal_of"]

_NODES = 64  # of the integral, for each draw
_FREEDOM = 7.0  # degrees of freedom of the proposal
_WIDER = 1.2  # proposal, in standard deviations of the draws
_DRAWS_BY_DIM = 10  # for a regression on the other latents


def marginal_of(parts: Parts, q: Tensor) -> Callable[[Tensor], Tensor]:
    """Make the function that evaluates the log-likelihood of what goes.

    Args:
        parts: the density.
        q: draws of the posterior of all data, `(draws, dim)`: they are checked, and
            say where latents of the data that go are.

    Returns:
        Function of positions without these latents, `(rows, stays.dim)`, to values in
        double precision, `(rows,)`.
    """
    parts.forgotten_at(q)
    if not len(parts.local):
        return lambda rows: map_chunks(parts.forgotten, rows)
    integral = _Integral(parts, q)

    def marginal(rows: Tensor) -> Tensor:
        return map_chunks(integral, rows.detach())

    impossible(marginal(parts.positions(q)), "the data to forget")
    return marginal


class _Nodes(NamedTuple):
    """Points of the integral in units of the proposal.

    Attributes:
        z: `(nodes, size)`.
        log_density: of the proposal in these units, `(nodes,)`.
    """

    z: Tensor
    log_density: Tensor


class _Integral:
    """Integrals over the latents of each row that goes, for many draws.

    The proposal is a Student distribution around the regression of these latents on
    the others, as the draws give it.
    """

    def __init__(self, parts: Parts, q: Tensor) -> None:
        assert parts.apart is not None
        self.goes = parts.apart.goes
        self.scales = data_scales(self.goes)
        self.plate = parts.forget.plate
        if bool(getattr(self.goes.density, "enumerated", None)):
            raise UnsupportedError(
                "latents of the deleted data cannot be integrated out",
                where="delete_draws",
                found="discrete latents that are summed out",
                expected="continuous latents only",
                todo="Refit without these data.",
            )
        index = parts.apart.goes_index
        gone = torch.zeros(parts.target.dim, dtype=torch.bool, device=index.device)
        gone[parts.local.to(index.device)] = True
        self.is_local = gone[index]
        self.owners = _owners(self.goes, self.plate).to(index.device)[self.is_local]
        # where the other coordinates are in positions without the local ones
        place = torch.full((parts.target.dim,), -1, device=index.device)
        kept = parts.apart.index
        place[kept] = torch.arange(len(kept), device=index.device)
        self.place = place[index[~self.is_local]]
        order = self.owners.argsort(stable=True)
        self.size = len(order) // int(self.owners.max() + 1)
        local = q[:, index[self.is_local]][:, order]
        self.slots = self.is_local.nonzero().flatten()[order]
        self._fit(local.double(), q[:, index[~self.is_local]].double())
        self.nodes = _student_nodes(self.size).to_like(q)

    def _fit(self, local: Tensor, shared: Tensor) -> None:
        """Regress the latents that go on the others."""
        self.shift, self.centre = local.mean(0), shared.mean(0)
        centred = local - self.shift
        self.slope = local.new_zeros(shared.shape[1], local.shape[1])
        if 0 < shared.shape[1] <= len(shared) / _DRAWS_BY_DIM:
            found = torch.linalg.lstsq(shared - self.centre, centred).solution
            if bool(found.isfinite().all()):
                self.slope = found
        residual = centred - (shared - self.centre) @ self.slope
        blocks = residual.reshape(len(residual), -1, self.size)
        spread = torch.einsum("sri,srj->rij", blocks, blocks) / len(blocks)
        eye = torch.eye(self.size, dtype=spread.dtype, device=spread.device)
        floor = 1e-10 * spread.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * eye
        self.root = _WIDER * torch.linalg.cholesky(spread + floor)

    def __call__(self, rows: Tensor) -> Tensor:
        """Integrate at positions without the latents, `(rows, stays.dim)`."""
        shared = rows[:, self.place].double()
        mean = self.shift + (shared - self.centre) @ self.slope
        values = [
            self._at_node(shared, mean, z, log_density)
            for z, log_density in zip(*self.nodes, strict=True)
        ]
        each = torch.stack(values).logsumexp(0) - math.log(len(values))
        return each.sum(1)

    def _at_node(
        self, shared: Tensor, mean: Tensor, z: Tensor, log_density: Tensor
    ) -> Tensor:
        """Integrand over the proposal at one node, `(rows, deleted rows)`."""
        step = (self.root @ z).flatten()
        q = shared.new_empty(len(shared), self.goes.dim)
        q[:, ~self.is_local] = shared
        q[:, self.slots] = mean + step
        stretch = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self._joint(q) - (log_density - stretch)

    def _joint(self, q: Tensor) -> Tensor:
        """Log-density of data and latents of each row, `(rows, deleted rows)`."""
        total = torch.zeros((), dtype=torch.float64, device=q.device)
        dims = self.goes.pointwise_dims
        for name, values in self.goes.pointwise_log_likelihood(q).items():
            total = total + _by_row(values * self.scales[name], dims[name], self.plate)
        for name, values in latent_log_probs(self.goes, q).items():
            site = self.goes.layout.sites[name].dims
            if self.plate in site:
                total = total + _by_row(values, site, self.plate)
        return total


def _by_row(values: Tensor, dims: tuple[str, ...], plate: str | None) -> Tensor:
    """Sum all axes but the chains and the plate, `(chains, rows)`."""
    axis = 1 + dims.index(str(plate))
    return (
        values.double().movedim(axis, 1).flatten(2).sum(2)
        if values.dim() > 2
        else (values.double())
    )


def _owners(goes: Target, plate: str | None) -> Tensor:
    """Row of the plate that each coordinate belongs to, `(dim,)`; -1 for none."""
    owners = torch.full((goes.dim,), -1)
    for site in goes.layout.sites.values():
        if plate not in site.dims:
            continue
        axis = site.dims.index(plate)
        count = site.shape[axis]
        shape = [count if i == axis else 1 for i in range(len(site.shape))]
        rows = torch.arange(count).reshape(shape).expand(site.shape)
        owners[site.slice] = rows.flatten()
    return owners


class _StudentNodes(_Nodes):
    def to_like(self, q: Tensor) -> _Nodes:
        return _Nodes(*(x.to(q.device) for x in self))


def _student_nodes(size: int) -> _StudentNodes:
    """Scrambled Sobol points of a Student distribution, and its density there."""
    engine = torch.quasirandom.SobolEngine(size + 1, scramble=True, seed=0)
    u = engine.draw(_NODES, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    normal = math.sqrt(2) * torch.erfinv(2 * u[:, :size] - 1)
    chi = chi_square_quantile(u[:, size], _FREEDOM)
    z = normal * (_FREEDOM / chi).sqrt()[:, None]
    half = 0.5 * (_FREEDOM + size)
    constant = (
        math.lgamma(half)
        - math.lgamma(0.5 * _FREEDOM)
        - 0.5 * size * math.log(_FREEDOM * math.pi)
    )
    log_density = constant - half * (z.square().sum(1) / _FREEDOM).log1p()
    return _StudentNodes(z, log_density)


def chi_square_quantile(u: Tensor, freedom: float) -> Tensor:
    """Invert the distribution of a chi-square number, by bisection.

    Args:
        u: probabilities.
        freedom: degrees of freedom.

    Returns:
        The quantiles, of the shape of `u`.
    """
    low, high = torch.zeros_like(u), torch.full_like(u, 10 * freedom + 100)
    half = torch.full_like(u, 0.5 * freedom)
    for _ in range(80):
        middle = 0.5 * (low + high)
        below = torch.special.gammainc(half, 0.5 * middle) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
