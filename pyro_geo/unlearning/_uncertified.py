"""What all certificates assume, and what is raised where one cannot be given."""

from __future__ import annotations

from typing import NoReturn

from pyro_geo.errors import UncertifiedError

__all__ = ["SHARED", "uncertified"]

SHARED = (
    "The noise is secret: neither it nor its seed is known to whoever attacks.",
    "Pseudo-random numbers are as good as random ones, and double precision as good "
    "as real numbers.",
    "The promise is about the released state alone. States released earlier, such as "
    "the fit before the deletion, are not covered, nor are their copies.",
    "Numbers reported beside the state, such as losses, are not covered.",
    "Options of the model, of the training and of this procedure were chosen without "
    "the forgotten data, and the retained data were not prepared with them.",
)


def uncertified(found: str, expected: str, where: str = "argument convex") -> NoReturn:
    """Refuse a certificate.

    Args:
        found: what was found.
        expected: what it takes.
        where: the argument it concerns.

    Raises:
        UncertifiedError: always.
    """
    raise UncertifiedError(
        "no certificate can be given",
        where=where,
        found=found,
        expected=expected,
        todo="Refit on the retained data, or use delete_point, which certifies nothing "
        "and says how far from a minimum it is.",
    )
