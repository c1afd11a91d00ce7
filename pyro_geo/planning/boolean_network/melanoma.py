"""The ten-gene network of melanoma."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_geo.planning.boolean_network.channel import Channel
from pyro_geo.planning.boolean_network.network import BooleanNetwork
from pyro_geo.planning.boolean_network.problem import NetworkControl

__all__ = ["melanoma"]

_RULES = {
    "WNT5A": (("S100P", "MMP3", "PHOC"), "01000110"),
    "pirin": (("WNT5A", "S100P", "MMP3"), "01001000"),
    "S100P": (("MART1",), "01"),
    "RET1": (("WNT5A", "pirin", "RET1"), "01010100"),
    "MMP3": (("RET1", "synuclein"), "1011"),
    "PHOC": (("RET1", "MART1", "STC2"), "11000001"),
    "MART1": (("MART1",), "01"),
    "HADHB": (("WNT5A", "MMP3", "synuclein"), "10001111"),
    "synuclein": (("WNT5A", "RET1", "MART1", "STC2"), "1011111100110111"),
    "STC2": (("S100P",), "10"),
}


def melanoma(
    *,
    unknown: Sequence[tuple[str | int, int]] = (),
    mutation: Tensor | float = 0.01,
    channel: Channel | None = None,
    combined: bool = False,
) -> NetworkControl:
    r"""Keep WNT5A, which drives metastasis, switched off.

    The rules are those of the R package BoolFilter. Actions flip nothing, RET1 or
    S100P; a step costs 5 where it ends with WNT5A on and 1 for a flip; the discount is
    .95. Actions and costs are derived: those of the paper are not published.

    Args:
        unknown: entries of the tables that are not known, as pairs of a gene and a row.
        mutation: probability that a gene flips by itself: a number or `(10,)`.
        channel: law of the measurements. Left out: states are seen without noise.
        combined: whether both genes may be flipped in one step.

    Returns:
        The problem.

    References:
        Yousefi and Dougherty (2013), A comparison study of optimal and suboptimal
        intervention policies for gene regulatory networks in the presence of
        uncertainty, EURASIP Journal on Bioinformatics and Systems Biology.

    Example:
        >>> problem = melanoma()
        >>> share = problem.occupancy(problem.solve(tolerance=1e-3).policy)
        >>> round(float(share), 4)
        0.0335
    """
    return NetworkControl(
        BooleanNetwork.from_rules(_RULES, unknown=unknown),
        target="WNT5A",
        bad_value=1,
        controls=("RET1", "S100P"),
        bad_cost=5.0,
        flip_cost=1.0,
        combined=combined,
        mutation=mutation,
        channel=channel,
        name="melanoma",
    )
