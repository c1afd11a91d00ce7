"""Methods by name, as rules for one tensor after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pyro_geo.checks import check, check_choice
from pyro_geo.summaries.merge._reader import Rule
from pyro_geo.summaries.merge.baselines import (
    arithmetic,
    curvature,
    interference,
    regression,
    rescaling,
    sparse,
    spectral,
)

__all__ = ["RULES", "rule_of"]

RULES: dict[str, Callable[..., Rule]] = {
    "average": arithmetic.average_rule,
    "task_arithmetic": arithmetic.arithmetic_rule,
    "ties": sparse.ties_rule,
    "dare": sparse.dare_rule,
    "fisher": curvature.fisher_rule,
    "regmean": regression.regmean_rule,
    "gram": regression.gram_rule,
    "tsv_merge": spectral.tsv_rule,
    "iso_c": spectral.iso_c_rule,
    "iso_cts": spectral.iso_cts_rule,
    "wudi": interference.wudi_rule,
    "larv": rescaling.larv_rule,
}


def rule_of(how: str, options: dict[str, Any]) -> Callable[..., Rule]:
    """Look up a method, and check the names of its options.

    Args:
        how: the method's name.
        options: for it.

    Returns:
        What makes its rule from a reader and the options.
    """
    check_choice("how", how, tuple(RULES))
    make = RULES[how]
    known = list(inspect.signature(make).parameters.values())[1:]
    names = [option.name for option in known]
    unknown = sorted(set(options) - set(names))
    check(not unknown, "options", unknown, f"options of {how}: {names}")
    needed = {o.name for o in known if o.default is o.empty}
    check(needed <= set(options), "options", sorted(options), f"also {sorted(needed)}")
    return make
