"""Laws of the velocities with which particles leave an anchor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.density import Target
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.geometry.laplace import Laplace, laplace
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.mcmc.dims.anchors import Anchors
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

__all__ = ["anchor_laplace", "draw_velocities"]


def draw_velocities(
    options: DIMSOptions,
    anchors: Tensor,
    slopes: Tensor,
    laplaces: Sequence[Laplace],
    draws: int,
    noise: BlockNoise,
) -> Tensor:
    r"""Draw the start velocities of one block.

    `laplace`: normal with the covariance of the Laplace approximation at the anchor;
    `isotropic`: `v = z`; `fixed_energy`: a uniform direction, scaled so that the
    kinetic energy on the surface is `initial_energy`. All are multiplied by
    `velocity_scale`, save the last.

    Args:
        options: which law, and its numbers.
        anchors: positions, `(chains, dim)`.
        slopes: gradients of the loss there, `(chains, dim)`.
        laplaces: the approximation at each anchor for the Laplace law, else empty.
        draws: velocities per chain.
        noise: streams, one per chain.

    Returns:
        Velocities, `(chains, draws, dim)`. A velocity function that returns another
        shape is a :class:`~pyro_geo.errors.ShapeError`, one that returns NaN or
        infinite numbers a :class:`~pyro_geo.errors.ConfigurationError`.
    """
    chains, dim = anchors.shape
    if callable(options.velocity):
        rows = [
            options.velocity(anchors[i], draws, noise.generator(i))
            for i in range(chains)
        ]
        for row in rows:
            _check_custom(row, draws, dim)
        return options.velocity_scale * torch.stack(rows).to(anchors)
    if options.velocity == "laplace":
        # last bits depend on how many velocities are made at once, so that a part of
        # a block takes the first ones of the whole
        whole = noise.whole(draws)
        z = noise.normal(whole, dim, dtype=anchors.dtype).to(anchors.device)
        rows = [
            laplace.precision.sample_inverse(row)[:draws]
            for laplace, row in zip(laplaces, z, strict=True)
        ]
        return options.velocity_scale * torch.stack(rows)
    z = noise.normal(draws, dim, dtype=anchors.dtype).to(anchors.device)
    if options.velocity == "isotropic":
        return options.velocity_scale * z
    # a fixed energy: a normal vector has a uniform direction
    assert options.initial_energy is not None
    # K = (|v|^2 + alpha^2 (d.v)^2) / 2 grows as the square of the speed
    along = options.alpha * (z * slopes[:, None]).sum(-1)
    kinetic = 0.5 * (z.square().sum(-1) + along**2)
    return (options.initial_energy / kinetic).sqrt().unsqueeze(-1) * z


def anchor_laplace(
    target: Target, anchors: Anchors, row: int, generator: torch.Generator
) -> Laplace:
    """Approximate around one anchor; without a minimum there may be no precision.

    Args:
        target: the density.
        anchors: all of them.
        row: which one.
        generator: randomness of a diagonal precision.

    Returns:
        The approximation; unit variances where the loss has no minimum.

    Raises:
        NotPositiveDefiniteError: some direction has no precision at a minimum.
    """
    q = anchors.q[row]
    try:
        return laplace(target, q, flat="size", generator=generator)
    except NotPositiveDefiniteError:
        if not bool(anchors.unbounded[row]):
            raise
        # the run warns of the missing minimum; unit velocities keep it possible
        flat = torch.full((), target.dim, device=q.device)
        unit = Diagonal(torch.ones_like(q))
        return Laplace(q, unit, q.new_tensor(-torch.inf), flat)


def _check_custom(row: Tensor, draws: int, dim: int) -> None:
    check_shape("velocity", row.shape, (draws, dim))
    finite = bool(row.isfinite().all())
    check(finite, "velocity", "NaN or infinity", "a function with finite velocities")
