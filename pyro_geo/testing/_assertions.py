"""How contracts compare what they find with what they expect."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

if TYPE_CHECKING:
    from pyro_geo.testing.contracts import Case

__all__ = ["assert_close", "assert_equal", "assert_true", "global_state"]


def global_state() -> dict[str, Any]:
    """Random states and settings of the process that a run must leave alone."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  the state itself is meant
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": [np.asarray(part).tolist() for part in numpy_state],
        "python's generator": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "the grad mode": torch.is_grad_enabled(),
        "Pyro's validation": is_validation_enabled(),
        "the parameter store": sorted(pyro.get_param_store().keys()),
    }


def assert_close(
    case: Case, what: str, found: Tensor, expected: Tensor, tolerance: float
) -> None:
    """Demand equal bits where the tolerance is 0, else values that are close."""
    __tracebackhide__ = True
    if tolerance == 0:
        equal = torch.equal(found.nan_to_num(), expected.nan_to_num())
        worst = (found.double() - expected.double()).abs().max() if not equal else 0.0
        assert_true(
            case, f"{what}: equal bits, largest difference {float(worst):.2e}", equal
        )
        return
    try:
        torch.testing.assert_close(
            found, expected, rtol=tolerance, atol=tolerance, equal_nan=True
        )
    except AssertionError as error:
        raise AssertionError(f"{case.name}: {what}: {error}") from None


def assert_equal(case: Case, what: str, found: object, expected: object) -> None:
    """Demand equal objects."""
    __tracebackhide__ = True
    assert_true(case, f"{what}: found {found}, expected {expected}", found == expected)


def assert_true(case: Case, what: str, holds: bool) -> None:
    """Demand that a contract holds, and name it where it does not."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(f"{case.name}: broken contract: {what}")
