"""Tables of trials: written by hand, read, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyro_geo.errors import HGFDomainError, HGFShapeError
from pyro_geo.filtering.hgf.trials import read_trials

TABLE = """subjID\ttrial\tchoice\toutcome
b7\t1\t1\t1
b7\t2\t2\t-1
a1\t1\t2\t1
b7\t3\tNA\t1
"""


@pytest.mark.parametrize("separator", ["\t", ","])
def test_rows_become_one_row_for_each_subject(tmp_path: Path, separator: str):
    path = tmp_path / "task.txt"
    path.write_text(TABLE.replace("\t", separator))
    trials = read_trials(path)
    assert trials.subjects == ("b7", "a1")
    nan = torch.nan
    torch.testing.assert_close(
        trials.values["choice"],
        torch.tensor([[1.0, 2.0, nan], [2.0, nan, nan]]),
        equal_nan=True,
    )
    assert trials.values["outcome"][0].tolist() == [1.0, -1.0, 1.0]
    assert trials.observed.tolist() == [[True, True, False], [True, False, False]]
    assert read_trials(path, ["trial"], dtype=torch.float64).values["trial"].dtype == (
        torch.float64
    )


def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "task.tsv"
    path.write_text(TABLE)
    with pytest.raises(HGFShapeError, match="no column reward"):
        read_trials(path, ["reward"])
    with pytest.raises(HGFShapeError, match="no column id"):
        read_trials(path, subject="id")
    path.write_text(TABLE.replace("NA", "left"))
    with pytest.raises(HGFDomainError, match=r"line 5, column choice(.|\n)*'left'"):
        read_trials(path)
    path.write_text("subjID\tchoice\toutcome\n")
    with pytest.raises(HGFShapeError, match="no trial"):
        read_trials(path)
    path.write_text("")
    with pytest.raises(HGFShapeError, match="empty file"):
        read_trials(path)
