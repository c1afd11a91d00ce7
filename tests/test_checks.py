"""The one place where arguments are refused."""

import pytest
import torch

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import BetaRangeError, ConfigurationError, ShapeError


def test_the_class_of_the_exception_can_be_chosen():
    check(True, "beta", 1.0, "positive", error=BetaRangeError)
    with pytest.raises(BetaRangeError, match=r"argument beta.*found -1.0.*positive"):
        check(False, "beta", -1.0, "positive", error=BetaRangeError)
    with pytest.raises(ConfigurationError, match="argument beta"):
        check(False, "beta", -1.0, "positive")


def test_a_wrong_shape_is_named_in_numbers_or_words():
    q = torch.zeros(4, 2)
    check_shape("q", q.shape, (4, 2))
    check_shape("q", q.shape, "(chains, 2)", good=True)
    with pytest.raises(
        ShapeError, match=r"argument q\): found \(4, 2\), .* \(4, 3\)\."
    ):
        check_shape("q", q.shape, torch.Size([4, 3]))
    with pytest.raises(ShapeError, match=r"found \(4, 2\), expected \(chains, 3\)\."):
        check_shape("q", q.shape, "(chains, 3)", good=False)
