"""The ledger of a tracker: what was refused, report by report, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.filtering.tracker.review import longest_refusal
from pyro_geo.ops.arrays import to_numpy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RefusalLedger"]


class RefusalLedger(Shown):
    r"""What a tracker has refused, and why.

    A report is refused where a fault of the sensor explains it better than the target
    does: :math:`P(\text{nominal} \mid y_{1:t}) < 1/2`. The nats that it was severed by
    are what it has cost the nominal sensor,

    .. math:: s_t = \log\frac{P(\text{nominal} \mid y_{1:t-1})}{P(\text{fault} \mid
        y_{1:t-1})} - \log\frac{P(\text{nominal} \mid y_{1:t})}{P(\text{fault} \mid
        y_{1:t})}.

    Their sum is the balance of the log-odds over all reports; a report that speaks for
    the nominal sensor counts as negative.

    Args:
        y: reports, NaN where one is missing, `(tracks, time, m)`.
        t: their times, `(tracks, time)`.
        p_nominal: probability that the sensor is nominal, `(tracks, time)`.
        severed: nats, `(tracks, time)`.
        mode_prob: probability of each mode, `(tracks, time, modes)`.
        left_out: reports that were not used, for they were infinite or came too late,
            `(tracks, time)`.
        modes: their names.
        channels: names of the numbers in a report.
        labels: of the tracks.

    Example:
        >>> ledger = RefusalLedger(
        ...     torch.tensor([[[0.1], [90.0]]]),
        ...     torch.tensor([[0.0, 1.0]]),
        ...     p_nominal=torch.tensor([[0.99, 0.0]]),
        ...     severed=torch.tensor([[-2.0, 14.0]]),
        ...     mode_prob=torch.tensor([[[0.99, 0.01], [0.0, 1.0]]]),
        ...     left_out=torch.zeros(1, 2, dtype=torch.bool),
        ...     modes=["nominal", "random"],
        ...     channels=["level"],
        ...     labels=["A"],
        ... )
        >>> ledger.table()[["time", "level", "nats severed", "mode"]].values.tolist()
        [[1.0, 90.0, 14.0, 'random']]
        >>> ledger.totals().loc["A", ["reports", "refused", "balance"]].tolist()
        [2.0, 1.0, 12.0]
    """

    def __init__(
        self,
        y: Tensor,
        t: Tensor,
        *,
        p_nominal: Tensor,
        severed: Tensor,
        mode_prob: Tensor,
        left_out: Tensor,
        modes: Sequence[str],
        channels: Sequence[str],
        labels: Sequence[object],
    ) -> None:
        self.y, self.t = y, t
        self.p_nominal, self.severed, self.mode_prob = p_nominal, severed, mode_prob
        self.left_out = left_out
        self.modes, self.channels, self.labels = modes, channels, labels

    @property
    def observed(self) -> Tensor:
        """Where there is a report that was used, `(tracks, time)`."""
        return ~self.y.isnan().any(-1) & ~self.left_out

    @property
    def refused(self) -> Tensor:
        """Which reports were refused, `(tracks, time)`."""
        return self.observed & (self.p_nominal < 0.5)

    @property
    def balance(self) -> Tensor:
        """Sum of the nats of all reports, `(tracks,)`."""
        return torch.where(self.observed, self.severed, 0.0).nansum(1)

    def longest_refusal(self) -> Tensor:
        """Most reports that were refused in a row, `(tracks,)`; missing ones apart."""
        return longest_refusal(self.observed, self.refused)

    def _shown_facts(self) -> dict[str, object]:
        return {"refused reports": int(self.refused.sum())}

    def _shown_table(self) -> pd.DataFrame:
        return self.table()

    def table(self) -> pd.DataFrame:
        """List the refused reports.

        Returns:
            One row each: track, step, time, the report, the nats that it was severed
            by, the most probable mode of the sensor, and the probability that it was
            nominal.
        """
        import pandas as pd

        rows, steps = (to_numpy(index) for index in self.refused.nonzero().unbind(1))
        at = (torch.from_numpy(rows), torch.from_numpy(steps))
        reports = self.y[at].unbind(-1)
        channels = zip(self.channels, reports, strict=True)
        best = to_numpy(self.mode_prob[at].nan_to_num().argmax(-1))
        columns = {
            "track": [self.labels[row] for row in rows],
            "step": steps,
            "time": to_numpy(self.t[at]),
            **{name: to_numpy(values) for name, values in channels},
            "nats severed": to_numpy(self.severed[at]),
            "mode": [self.modes[mode] for mode in best],
            "P(nominal)": to_numpy(self.p_nominal[at]),
        }
        return pd.DataFrame(columns)

    def totals(self) -> pd.DataFrame:
        """Sum up each track.

        Returns:
            One row per track: reports that were used, missing ones, those left out,
            refused ones, the nats that these were severed by, the balance of all
            reports, the most refused in a row and the mode that most of the refused
            were given to.
        """
        import pandas as pd

        observed, refused = self.observed, self.refused
        nats = torch.where(refused, self.severed, 0.0).nansum(1)
        best = self.mode_prob.nan_to_num().argmax(-1)
        usual = []
        for row, chosen in zip(best, refused, strict=True):
            counts = torch.bincount(row[chosen], minlength=len(self.modes))
            usual.append(self.modes[int(counts.argmax())] if chosen.any() else "")
        columns = {
            "reports": to_numpy(observed.sum(1)),
            "missing": to_numpy(self.y.isnan().any(-1).sum(1)),
            "left out": to_numpy(self.left_out.sum(1)),
            "refused": to_numpy(refused.sum(1)),
            "nats severed": to_numpy(nats),
            "balance": to_numpy(self.balance),
            "in a row": to_numpy(self.longest_refusal()),
            "mostly": np.array(usual, dtype=object),
        }
        return pd.DataFrame(columns, index=pd.Index(self.labels, name="track"))
