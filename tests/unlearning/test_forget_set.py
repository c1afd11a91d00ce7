"""What to forget: rows, masks, plates and sites, and what is no forget set."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo import Target
from pyro_geo.errors import ForgetSetError, UnsupportedError
from pyro_geo.unlearning._forget_set import read_forget, read_rows


def two_plates(x: torch.Tensor, y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    patients = pyro.plate("patient", len(y), dim=-1)
    with patients, pyro.plate("time", x.shape[0], dim=-2):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
    with patients:
        pyro.sample("y", dist.Normal(mean, 2.0), obs=y)
    pyro.sample("z", dist.Normal(mean, 1.0), obs=torch.tensor(0.3))


@pytest.fixture
def target() -> Target:
    x = torch.arange(6.0).reshape(2, 3)
    args = (x, torch.tensor([1.0, 2.0, 3.0]))
    return Target.from_model(two_plates, *args, dtype=torch.float64)


@pytest.mark.parametrize(
    "rows",
    [[2, 0], np.array([0, 2]), torch.tensor([True, False, True])],
)
def test_rows_and_masks_are_the_same(rows: object) -> None:
    found = read_rows(rows, 3)  # type: ignore[arg-type]
    assert found.indices.tolist() == [0, 2]
    assert found.retained.tolist() == [1]
    assert found.num_data == 2


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "nothing"),
        ([0, 0, 1], "more than once"),
        ([3], r"rows \[3\]"),
        ([-1], r"rows \[-1\]"),
        ([0, 1, 2], "all rows"),
        (torch.zeros(3, dtype=torch.bool), "without a row"),
        (torch.ones(3, dtype=torch.bool), "all rows"),
        (torch.ones(2, dtype=torch.bool), "mask of 2"),
        ([0.5], "numbers of type"),
        ([[0], [1]], "shape"),
        ("0", "found '0', expected a list of rows"),
        ([[0], [1, 2]], "a list of rows"),
    ],
)
def test_what_is_no_forget_set_is_named(rows: object, says: str) -> None:
    with pytest.raises(ForgetSetError, match=says):
        read_rows(rows, 3)  # type: ignore[arg-type]


def test_a_plate_marks_all_sites_inside_it(target: Target) -> None:
    forget = read_forget({"patient": [1]}, target)
    assert forget.masks["x"].tolist() == [[False, True, False]] * 2
    assert forget.masks["y"].tolist() == [False, True, False]
    assert not forget.masks["z"]
    assert (forget.plate, forget.size, forget.num_data) == ("patient", 3, 3)


def test_what_goes_and_what_stays_are_the_likelihood(target: Target) -> None:
    forget = read_forget({"patient": [1], "z": True}, target)
    q = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    pointwise = target.pointwise_log_likelihood(q)
    whole = forget.forgotten(pointwise) + forget.kept(pointwise)
    torch.testing.assert_close(whole, target.log_likelihood(q))
    alone = dist.Normal(q, 1.0).log_prob(torch.tensor([1.0, 4.0])).sum(1)
    alone = alone + dist.Normal(q[:, 0], 2.0).log_prob(torch.tensor(2.0))
    alone = alone + dist.Normal(q[:, 0], 1.0).log_prob(torch.tensor(0.3))
    torch.testing.assert_close(forget.forgotten(pointwise), alone.double())


def test_sites_of_the_model_are_named_where_the_plate_is_not(target: Target) -> None:
    with pytest.raises(ForgetSetError, match="patient"):
        read_forget([0], target)
    with pytest.raises(ForgetSetError, match="patient"):
        read_forget({"subject": [0]}, target)
    with pytest.raises(ForgetSetError, match="nothing"):
        read_forget({}, target)
    with pytest.raises(ForgetSetError, match="all data"):
        read_forget({"patient": [0, 1, 2], "z": True}, target)


def test_one_site_may_go_whole(target: Target) -> None:
    forget = read_forget({"y": [0, 1, 2]}, target)
    assert (forget.plate, forget.num_data) == (None, 3)
    mask = torch.tensor([[True, False, False], [False, False, True]])
    assert read_forget({"x": mask}, target).masks["x"].tolist() == mask.tolist()


def test_arguments_are_split_along_the_axis_of_the_plate(target: Target) -> None:
    x, y = torch.arange(6.0).reshape(2, 3), np.arange(3.0)
    forget = read_forget({"patient": [1]}, target)
    (stays, named), (goes, _) = forget.split((x, "kept"), {"y": y})
    assert stays[0].tolist() == [[0.0, 2.0], [3.0, 5.0]]
    assert stays[1] == "kept"
    assert named["y"].tolist() == [0.0, 2.0]
    assert goes[0].tolist() == [[1.0], [4.0]]
    with pytest.raises(ForgetSetError, match="rows of the plate"):
        forget.split((torch.zeros(4),))


def test_a_set_read_for_other_data_is_refused(target: Target) -> None:
    forget = read_rows([0], 3)
    with pytest.raises(ForgetSetError, match="forget set of sites"):
        read_forget(forget, target)
    with pytest.raises(ForgetSetError, match="plate of 4"):
        read_rows(forget, 4)


def test_a_density_without_data_has_nothing_to_forget() -> None:
    target = Target.from_potential(lambda q: (q * q).sum(), 1)
    with pytest.raises(UnsupportedError, match="no data to forget"):
        read_forget([0], target)
