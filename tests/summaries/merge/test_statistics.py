"""Moments of the inputs of layers and diagonals of curvature, and their files."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    LayoutMismatchError,
    NonFiniteParameterError,
)
from pyro_geo.summaries.merge._layers import rows_of
from pyro_geo.summaries.merge.statistics import (
    LayerStatistics,
    fisher_diagonal,
    layer_statistics,
)

CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, padding="same", dilation=2, groups=2), (5, 4, 9)),
    (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (5, 2, 7, 6)),
    (nn.Conv2d(4, 4, 2, groups=4, padding=1, padding_mode="circular"), (5, 4, 3, 3)),
    (nn.Conv2d(2, 3, 2, padding="valid"), (2, 5, 6)),
    (nn.Conv3d(2, 2, (1, 2, 3), padding=(0, 1, 2)), (3, 2, 2, 3, 4)),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=str)
def test_convolutions_are_linear_in_their_rows(layer, shape):
    x = torch.randn(shape)
    rows = rows_of(layer, x)
    weight = layer.weight.reshape(layer.groups, -1, rows.shape[-1])
    bias = layer.bias.reshape(layer.groups, 1, -1)
    outputs = rows @ weight.mT + bias  # (groups, places, outputs of a group)
    expected = layer(x)
    axes = len(layer.kernel_size)
    if expected.ndim == axes + 1:
        expected = expected[None]
    expected = expected.movedim(1, -1).reshape(-1, layer.groups, outputs.shape[-1])
    torch.testing.assert_close(outputs.movedim(0, 1), expected)


def test_moments_of_a_network():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(10, 3)
    found = layer_statistics(net, x, batch_size=4)
    inputs = {"0": x.double(), "3": net[0](x).tanh().double()}
    assert list(found) == ["0", "3"]
    for name, rows in inputs.items():
        moment = found[name]["moment"]
        torch.testing.assert_close(moment[0], rows.mT @ rows / 10, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            found[name]["mean"][0], rows.mean(0), rtol=1e-6, atol=1e-6
        )
        assert found[name]["count"] == 10
    assert net.training  # and dropout did nothing
    assert net[2].training
    assert not net[0]._forward_pre_hooks


def test_other_parameters_and_layers_of_choice():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    params = {k: torch.randn_like(v) for k, v in net.state_dict().items()}
    x = torch.randn(6, 3)
    found = layer_statistics(net, x, params=params, layers=lambda name: name == "1")
    rows = (x @ params["0.weight"].T + params["0.bias"]).double()
    assert list(found) == ["1"]
    torch.testing.assert_close(
        found["1"]["moment"][0], rows.mT @ rows / 6, rtol=1e-5, atol=1e-5
    )


def test_embeddings_count_rows_and_tokens_are_rows():
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 0, 1], [3, 0, 1]])
    found = layer_statistics(net, tokens)
    assert found["0"]["rows"].tolist() == pytest.approx([0.5, 1 / 3, 0, 1 / 6])
    assert found["1"]["count"] == 6


def test_inputs_as_batches_of_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, *, y):
            return self.layer(x + y)

    net, x, y = Two(), torch.randn(4, 2), torch.randn(4, 2)
    named = layer_statistics(net, [{"x": x, "y": y}])
    alone = layer_statistics(net.layer, x + y, layers=lambda name: True)
    assert torch.equal(named["layer"]["moment"], alone[""]["moment"])


def test_pooled_over_inputs():
    net = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(10, 3)
    found = layer_statistics(net, x[:3]) + layer_statistics(net, x[3:])
    whole = layer_statistics(net, x)
    for part, value in whole["0"].items():
        torch.testing.assert_close(found["0"][part], value)
    with pytest.raises(LayoutMismatchError, match="layers"):
        _ = found + LayerStatistics({})


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_saved_and_read_again(suffix, tmp_path):
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    found = layer_statistics(net, torch.tensor([[0, 1], [2, 2]]))
    path = tmp_path / f"stats.{suffix}"
    found.save(path)
    again = LayerStatistics.load(path)
    assert {k: set(v) for k, v in again.items()} == {
        k: set(v) for k, v in found.items()
    }
    for layer, parts in found.items():
        assert all(torch.equal(again[layer][part], v) for part, v in parts.items())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"stats\."):
        LayerStatistics.load(path)


def test_another_file_is_refused(tmp_path):
    torch.save({"0.weight": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        LayerStatistics.load(tmp_path / "net.pt")


def test_bad_inputs():
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(NonFiniteParameterError, match="'0'"):
        layer_statistics(net, torch.full((3, 2), torch.nan))
    with pytest.raises(ConfigurationError, match="inputs"):
        layer_statistics(net, torch.zeros(0, 2))
    with pytest.raises(ConfigurationError, match="layers"):
        layer_statistics(nn.Tanh(), torch.zeros(1, 2))


def test_modes_come_back_after_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    net[1].eval()
    with pytest.raises(RuntimeError):
        layer_statistics(net, torch.zeros(3, 5))
    assert net[0].training
    assert not net[1].training
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_fisher_is_the_diagonal_of_the_ggn(likelihood):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    params = {k: v.detach() for k, v in net.state_dict().items()}
    x = torch.randn(7, 3).double()

    def forward(p, x):
        return functional_call(net, p, (x,))

    found = fisher_diagonal(forward, params, x, likelihood=likelihood, batch_size=3)
    outputs = forward(params, x)
    for name, slopes in jacrev(forward)(params, x).items():
        j = slopes.flatten(2)  # (inputs, outputs, parameters)
        if likelihood == "categorical":
            p = outputs.softmax(-1)
            middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        elif likelihood == "bernoulli":
            p = outputs.sigmoid()
            middle = torch.diag_embed(p * (1 - p))
        else:
            middle = torch.eye(3).double().expand(7, 3, 3)
        expected = torch.einsum("noi,nop,npi->i", j, middle, j) / 7
        torch.testing.assert_close(found[name].flatten(), expected)


def test_fisher_of_saturated_logits_stays_finite():
    def forward(p, x):
        return x @ p["w"]

    params = {"w": 60 * torch.randn(2, 3), "n": torch.tensor(1)}
    found = fisher_diagonal(forward, params, torch.randn(4, 2))
    assert list(found) == ["w"]
    assert bool(found["w"].isfinite().all())
    with pytest.raises(ConfigurationError, match="likelihood"):
        fisher_diagonal(forward, params, torch.randn(4, 2), likelihood="poisson")
