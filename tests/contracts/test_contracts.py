"""Every check on every case: a new kernel needs no test of its own here."""

import pytest
import torch

from pyro_geo.testing.contracts import CHECKS, Case, check_longer, check_rungs
from tests.cases import FAST, SLOW

CASES = [
    *(
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.slow if case.name.startswith("hmc_tuned") else [],
        )
        for case in FAST
    ),
    *(pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in SLOW),
]
# Runs of several lengths of each case; those of a cheap kernel on every change.
SHORT = [check for check in CHECKS if check is not check_longer]
LONG = [
    pytest.param(
        case,
        id=case.name,
        marks=[] if case.name.startswith("fixed_hmc") else pytest.mark.slow,
    )
    for case in FAST
] + [pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in SLOW]
# In double precision: in single a particle near a ridge turns rounding into distance.
# One is compiled on every change, the others in the slow suite.
DOUBLE = [case for case in [*FAST, *SLOW] if case.dtype == torch.float64]
QUICK = "dims-regression-double-3"
COMPILED = [
    pytest.param(
        case, id=case.name, marks=[] if case.name == QUICK else pytest.mark.slow
    )
    for case in DOUBLE
    if case.chains > 1
]


@pytest.mark.parametrize("check", SHORT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES)
def test_contract(case: Case, check):
    check(case)


@pytest.mark.parametrize("case", LONG)
def test_a_longer_run(case: Case):
    check_longer(case)


@pytest.mark.parametrize("case", COMPILED)
def test_compiled_contract(case: Case):
    check_rungs(case, ("traced", "compiled"))
