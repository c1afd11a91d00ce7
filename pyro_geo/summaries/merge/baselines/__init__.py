"""Merging methods by their published names, on state dicts.

All are called as `method(base, models, **options)` and return a state dict.

Modules:
    arithmetic: averages, and sums of differences from the base.
    sparse: TIES and DARE.
    curvature: Fisher merging.
    regression: RegMean, and RegMean with the bias folded in.
    crossing: RegMean++.
    spectral: TSV-Merge, Iso-C and Iso-CTS.
    interference: WUDI-Merging.
    rescaling: LARV, over any method that needs no data.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.summaries.merge.baselines.arithmetic import average, task_arithmetic
    from pyro_geo.summaries.merge.baselines.crossing import regmean_pp
    from pyro_geo.summaries.merge.baselines.curvature import fisher
    from pyro_geo.summaries.merge.baselines.interference import wudi
    from pyro_geo.summaries.merge.baselines.regression import gram, regmean
    from pyro_geo.summaries.merge.baselines.rescaling import larv
    from pyro_geo.summaries.merge.baselines.sparse import dare, ties
    from pyro_geo.summaries.merge.baselines.spectral import iso_c, iso_cts, tsv_merge

__all__ = [
    "average",
    "dare",
    "fisher",
    "gram",
    "iso_c",
    "iso_cts",
    "larv",
    "regmean",
    "regmean_pp",
    "task_arithmetic",
    "ties",
    "tsv_merge",
    "wudi",
]

_HERE = "pyro_geo.summaries.merge.baselines"

__getattr__ = importer(
    globals(),
    {
        "average": f"{_HERE}.arithmetic",
        "dare": f"{_HERE}.sparse",
        "fisher": f"{_HERE}.curvature",
        "gram": f"{_HERE}.regression",
        "iso_c": f"{_HERE}.spectral",
        "iso_cts": f"{_HERE}.spectral",
        "larv": f"{_HERE}.rescaling",
        "regmean": f"{_HERE}.regression",
        "regmean_pp": f"{_HERE}.crossing",
        "task_arithmetic": f"{_HERE}.arithmetic",
        "ties": f"{_HERE}.sparse",
        "tsv_merge": f"{_HERE}.spectral",
        "wudi": f"{_HERE}.interference",
    },
)
