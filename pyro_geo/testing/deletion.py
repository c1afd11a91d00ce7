"""Certified deletions whose certificates lie, for tests that must notice it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyro_geo.unlearning import CertifiedDeletion, certified_finetune

__all__ = ["understated_noise", "with_old_memory"]


def understated_noise(
    *args: Any, epsilon: float, delta: float, share: float = 0.05, **options: Any
) -> CertifiedDeletion:
    """Certify a deletion whose noise is a share of what the certificate needs.

    The wrong kernel of a certified deletion: the ball is larger than its noise allows.

    Args:
        *args: of :func:`~pyro_geo.unlearning.certified_finetune`.
        epsilon: that is claimed.
        delta: that is claimed.
        share: of the noise that is added.
        **options: of the same function, `radius` among them.

    Returns:
        The deletion, with a certificate that does not hold.
    """
    radius = options.pop("radius")
    honest = certified_finetune(
        *args, epsilon=epsilon, delta=delta, radius=radius, **options
    )
    small = certified_finetune(
        *args, epsilon=epsilon, delta=delta, radius=radius * share, **options
    )
    # the noise of a small ball around parameters that lie on the large one
    parameters = dict(honest.fit.named_parameters())
    scale = honest.certificate.settings["noise of a step"]
    assert scale > small.certificate.settings["noise of a step"]
    old, centre = dict(args[0].named_parameters()), options["centre"]
    for name, value in small.fit.named_parameters():
        assert name in parameters
        value.data += (1 - share) * (old[name].detach() - centre[name]).to(value)
    return replace(small, certificate=honest.certificate)


def with_old_memory(result: CertifiedDeletion, optimizer: Any) -> CertifiedDeletion:
    """Hand the optimiser that saw all data back with a certificate that covers it.

    Args:
        result: a certified deletion.
        optimizer: before it.

    Returns:
        The deletion, with a memory that is not covered in truth.
    """
    return replace(result, optimizer=optimizer)
