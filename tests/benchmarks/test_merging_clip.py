"""The CLIP program, end to end on a tiny random tower of the same architecture."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_geo.errors import CheckpointError, LayoutMismatchError
from pyro_geo.summaries.merge.checkpoints import open_checkpoint, write_checkpoint

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

# a tiny random tower is confident where it is wrong
IGNORED = [
    f"ignore::pyro_geo.errors.{name}Warning"
    for name in ("SubspaceResidual", "SaturatedMetric")
]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def arguments(options, folder):
    """The command line of written files."""
    tasks = [f"--task={name}={path}" for name, path in options["task"].items()]
    return [
        *(f"--{name}={options[name]}" for name in ("base", "heads", "images")),
        *(f"--calibration={options['calibration']}", "--subspace=block"),
        *("--steps=1", "--chunk-size=64", "--batch-size=64"),
        *(f"--out={folder}/found.json", f"--folder={folder}/merged", *tasks),
    ]


def read(rows, method, metric):
    return {
        r["case"]: r["value"]
        for r in rows
        if (r["method"], r["metric"]) == (method, metric)
    }


@pytest.mark.filterwarnings(*IGNORED)
def test_checkpoints_are_merged_forecast_and_evaluated(bench, tmp_path, monkeypatch):
    clip, tiny = bench("merging_clip"), bench("_merging_clip_tiny")
    monkeypatch.setattr(tiny, "SHAPE", tiny.SHAPE._replace(layers=1))
    options = tiny.write_tiny(tmp_path, count=18)
    command = arguments(options, tmp_path)
    clip.main([*command, "--method=epimer,average"])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    # each tower alone makes no error on the labels that it has given
    own = read(rows, "average", "task_accuracy")
    assert own == dict.fromkeys([*options["task"], "mean"], 100.0)
    kl = {m: read(rows, m, "kl")["mean"] for m in ("pretrained", "average", "epimer")}
    assert kl["epimer"] < kl["average"] < kl["pretrained"]
    for method in ("epimer", "average"):
        merged = open_checkpoint(tmp_path / "merged" / f"{method}.safetensors")
        base = bench("_merging_clip").read_base(options["base"])
        assert set(merged) == set(base.state)
        name = "visual_projection.weight"
        torch.testing.assert_close(merged[name], base.state[name], rtol=0, atol=0)
        assert read(rows, method, "predicted_kl")["mean"] > 0
    average = open_checkpoint(tmp_path / "merged" / "average.safetensors")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    parts = [open_checkpoint(path)[name] for path in options["task"].values()]
    torch.testing.assert_close(average[name], sum(parts) / len(parts))


@pytest.mark.slow
@pytest.mark.filterwarnings(*IGNORED)
def test_every_method_runs(bench, tmp_path):
    clip, tiny = bench("merging_clip"), bench("_merging_clip_tiny")
    options = tiny.write_tiny(tmp_path, count=12)
    command = arguments(options, tmp_path)
    clip.main([*command, f"--method={','.join(clip.METHODS)}"])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"pretrained", *clip.METHODS}


@pytest.mark.filterwarnings(*IGNORED)
def test_metrics_in_the_folder_are_not_measured_again(bench, tmp_path, monkeypatch):
    clip, tiny = bench("merging_clip"), bench("_merging_clip_tiny")
    monkeypatch.setattr(tiny, "SHAPE", tiny.SHAPE._replace(layers=1))
    options = tiny.write_tiny(tmp_path, count=12, labels=False)
    command = [*arguments(options, tmp_path), "--method=epimer", "--directions="]
    command += ["--subspace=span", "--steps=0"]
    clip.main(command)
    first = open_checkpoint(tmp_path / "merged" / "epimer.safetensors")
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {row["metric"] for row in rows["rows"]} == {
        *("kl", "predicted_kl", "predicted_accuracy_loss", "time")  # no labels
    }
    assert rows["ratios"] == {}
    before = {name: first[name] for name in first}

    def fail(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(clip, "measure", fail)
    clip.main(command)
    again = open_checkpoint(tmp_path / "merged" / "epimer.safetensors")
    for name, value in before.items():
        assert torch.equal(again[name], value), name


def test_files_that_do_not_fit_are_named(bench, tmp_path):
    towers, tiny = bench("_merging_clip"), bench("_merging_clip_tiny")
    options = tiny.write_tiny(tmp_path, count=6)
    base = towers.read_base(options["base"])
    assert base.scale == pytest.approx(20.0)
    path = tmp_path / "wrong.safetensors"
    state = dict(open_checkpoint(options["task"]["beta"]))
    name = "vision_model.post_layernorm.bias"
    state[name] = torch.zeros(3)
    write_checkpoint(path, state)
    with pytest.raises(LayoutMismatchError, match=r"post_layernorm.bias.*\(3,\)"):
        towers.read_task(path, base)
    write_checkpoint(path, {n: x for n, x in state.items() if n != name})
    with pytest.raises(LayoutMismatchError, match=r"post_layernorm.bias.*no such"):
        towers.read_task(path, base)
    with pytest.raises(CheckpointError, match="no vision tower"):
        towers.read_base(options["heads"])
    with pytest.raises(LayoutMismatchError, match="delta"):
        towers.read_heads(options["heads"], ["delta"], 8)
    path.write_bytes(path.read_bytes()[:-5])  # half-written
    with pytest.raises(CheckpointError):
        towers.read_task(path, base)


def test_a_tower_without_settings_is_read_off_its_tensors(bench, tmp_path):
    towers, tiny = bench("_merging_clip"), bench("_merging_clip_tiny")
    options = tiny.write_tiny(tmp_path, count=6)
    found = towers.read_base(options["base"]).tower.shape
    assert found == tiny.SHAPE
    large = {"layers": 12, "heads": 12, "inner": 3072, "patch": 32, "image": 224}
    shape = towers.Shape(width=768, projection=512, **large)
    with torch.device("meta"):
        state = towers.Tower(shape).state_dict()
    assert sum(x.numel() for x in state.values()) == 87_849_216  # of ViT-B/32

    class Frame(dict):
        def frame(self):
            return self

    assert towers.shape_of(Frame(state), {}, "here") == shape


def test_images_come_from_folders_and_arrays(bench, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    module = bench("_merging_clip_images")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 12, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(5))
    for number, picture in enumerate(pixels):
        place = tmp_path / "folder" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    array = module.Images(tmp_path / "a.npz", 8)
    folder = module.Images(tmp_path / "folder", 8)
    order = torch.tensor([0, 2, 4, 1, 3])  # cats first
    torch.testing.assert_close(folder.read(torch.arange(5)), array.read(order))
    assert folder.labels.tolist() == [0, 0, 0, 1, 1]
    assert array.read(torch.tensor([1])).shape == (1, 3, 8, 8)
    # a picture of the right size is only put into CLIP's units
    np.savez(tmp_path / "b.npz", images=pixels[:, :8, :8])
    plain = module.Images(tmp_path / "b.npz", 8)
    assert plain.labels is None
    row = torch.as_tensor(pixels[3, :8, :8] / 255).float()
    row = (row - torch.tensor(module.MEAN)) / torch.tensor(module.SD)
    torch.testing.assert_close(plain.read(torch.tensor([3]))[0], row.permute(2, 0, 1))
    first, rest = plain.split(2, seed=1)
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(5))
    (tmp_path / "c.npz").write_bytes(b"PK")
    for wrong in ("c.npz", "none.npz"):
        with pytest.raises(CheckpointError, match=wrong):
            module.Images(tmp_path / wrong, 8)


def test_options_are_checked_before_anything_is_read(bench, capsys):
    clip = bench("merging_clip")
    for wrong in (
        ["--method=epimor"],
        ["--directions=epimer"],
        ["--base=x"],
        ["--base=x", "--task=cars"],
    ):
        with pytest.raises(SystemExit):
            clip.main(wrong)
    assert "epimor" in capsys.readouterr().err
    clip.main([])
    assert "nothing is measured" in capsys.readouterr().out


@pytest.mark.slow  # transformers is no dependency, and slow to import
def test_the_tower_is_that_of_transformers(bench):
    transformers = pytest.importorskip("transformers")
    towers = bench("_merging_clip")
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 24}
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=80, patch_size=8, image_size=32, **sizes
    )
    torch.manual_seed(0)
    peer = transformers.CLIPVisionModelWithProjection(config).eval()
    shape = towers.Shape(32, 3, 4, 80, 8, 32, 24)
    tower = towers.Tower(shape).eval()
    state = peer.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value += 0.3 * torch.randn_like(value)  # no norm or bias is trivial
    state = {n: x for n, x in state.items() if not n.endswith("position_ids")}
    tower.load_state_dict(state, strict=True)
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        expected = peer(pixel_values=images).image_embeds
        torch.testing.assert_close(tower(images), expected, rtol=1e-5, atol=1e-5)
