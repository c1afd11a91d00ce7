"""Published methods as special cases of the Fréchet merge of measured metrics."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pyro_geo.summaries.merge import build_subspace, frechet_merge, measure
from pyro_geo.summaries.merge.baselines import gram, regmean
from pyro_geo.summaries.merge.statistics import LayerStatistics, layer_statistics


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_with_gaussian_outputs(bias, inside, tmp_path):
    torch.manual_seed(0)
    net = nn.Linear(4, 3, bias=bias).double()
    net = nn.Sequential(net) if inside else net
    base = net.state_dict()
    models = [{k: torch.randn_like(v) for k, v in base.items()} for _ in range(3)]
    inputs = [torch.randn(20, 4).double() + k for k in range(3)]
    weights = [1.0, 2.0, 4.0]
    subspace = build_subspace(base, models, "full")

    def forward(params, x):
        return functional_call(net, params, (x,))

    metrics = [
        measure(forward, model, x, subspace, kind="point", likelihood="gaussian")
        for model, x in zip(models, inputs, strict=True)
    ]
    merged = frechet_merge(
        base, models, metrics, subspace, weights=weights, damping=0.0
    ).state_dict
    statistics = []
    for k, x in enumerate(inputs):
        layer_statistics(net, x).save(tmp_path / f"{k}.pt")
        statistics.append(LayerStatistics.load(tmp_path / f"{k}.pt"))
    merge = gram if bias else regmean
    found = merge(
        base, models, statistics=statistics, off_diagonal=1.0, weights=weights
    )
    for name, value in found.items():
        torch.testing.assert_close(value, merged[name], rtol=1e-9, atol=1e-9)
