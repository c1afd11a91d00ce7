"""Files of networks: read lazily, merged, written whole or not at all."""

import errno
import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    LayoutMismatchError,
    MissingExtraError,
    NonFiniteParameterError,
)
from pyro_geo.summaries.merge import _reader, baselines
from pyro_geo.summaries.merge.checkpoints import (
    merge_checkpoints,
    open_checkpoint,
    write_checkpoint,
)

SHAPES = {"0.weight": (7, 5), "0.bias": (7,), "1.weight": (4, 7), "1.scale": ()}
OPTIONS = {
    "average": {"weights": {"p": 1.0, "q": 3.0}},
    "task_arithmetic": {"scale": 0.4},
    "ties": {"density": 0.3},
    "dare": {"seed": 3, "drop": 0.5},
    "tsv_merge": {},
    "iso_c": {},
    "iso_cts": {"common_fraction": 0.4},
    "wudi": {"steps": 5},
    "fisher": {},
    "regmean": {},
    "gram": {},
    "larv": {"over": "ties", "options": {"density": 0.3}},
}


def draw(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in SHAPES.items()
    }
    return {**state, "number": torch.tensor([seed, 2]), "flag": torch.tensor(True)}


def diagonals() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(9)
    return {
        task: {n: torch.rand(s, generator=generator) for n, s in SHAPES.items()}
        for task in "pq"
    }


def statistics_for(how):
    if how == "fisher":
        return diagonals()
    generator = torch.Generator().manual_seed(9)
    rows = {
        task: {n: torch.randn(1, 30, k, generator=generator) for n, k in layers}
        for task in "pq"
        for layers in [(("0", 5), ("1", 7))]
    }
    return {
        task: {n: {"moment": x.mT @ x / 30, "mean": x.mean(1)} for n, x in r.items()}
        for task, r in rows.items()
    }


@pytest.fixture
def files(tmp_path):
    """Base as shards, one model in each format."""
    write_checkpoint(tmp_path / "base", draw(0), shard_bytes=120)
    save_file(draw(1), tmp_path / "p.safetensors")
    torch.save(draw(2), tmp_path / "q.pt")
    return tmp_path


def paths(files):
    return {"p": files / "p.safetensors", "q": files / "q.pt"}


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", OPTIONS)
def test_files_merge_as_state_dicts_bit_for_bit(how, files):
    options = dict(OPTIONS[how])
    if how in ("fisher", "regmean", "gram"):
        options["statistics"] = statistics_for(how)
    merge_checkpoints(
        files / "base", paths(files), files / "out.safetensors", how, **options
    )
    states = {"p": draw(1), "q": draw(2)}
    expected = getattr(baselines, how)(draw(0), states, **options)
    found = load_file(files / "out.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("how", ["average", "task_arithmetic", "ties", "dare", "larv"])
def test_pieces_of_large_tensors(how, files, monkeypatch):
    merge = getattr(baselines, how)
    options = OPTIONS[how]
    states = {"p": draw(1), "q": draw(2)}
    whole = merge(draw(0), states, **options)
    monkeypatch.setattr(_reader, "PIECE", 10)
    pieces = merge(draw(0), states, **options)
    merge_checkpoints(files / "base", paths(files), files / "o.pt", how, **options)
    found = open_checkpoint(files / "o.pt")
    for name, value in pieces.items():
        assert torch.equal(found[name], value)
        if how != "dare":  # which draws others
            assert torch.equal(whole[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("out", ["out.pt", "out.safetensors", "out"])
def test_types_and_formats_come_back(dtype, out, tmp_path):
    write_checkpoint(tmp_path / "base.safetensors", draw(0, dtype))
    write_checkpoint(tmp_path / "one.pt", draw(1, dtype))
    files = [tmp_path / "one.pt", tmp_path / "base.safetensors"]
    merge_checkpoints(
        tmp_path / "base.safetensors", files, tmp_path / out, "average", shard_bytes=64
    )
    found = open_checkpoint(tmp_path / out)
    expected = baselines.average(draw(0, dtype), [draw(1, dtype), draw(0, dtype)])
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert {k: v.dtype for k, v in found.items()} == {
        k: v.dtype for k, v in expected.items()
    }
    if out == "out":
        index = json.loads(
            (tmp_path / out / "model.safetensors.index.json").read_text()
        )
        merged = {}
        for shard in set(index["weight_map"].values()):
            merged |= load_file(tmp_path / out / shard)
        assert merged.keys() == expected.keys()
        assert len(set(index["weight_map"].values())) > 2


def test_mixed_widths_are_read_by_the_library(tmp_path):
    # odd numbers of narrow numbers before wide ones
    state = {
        "a": torch.ones(3, dtype=torch.int8),
        "b": torch.full((3,), 0.5, dtype=torch.bfloat16),
        "c": torch.full((2, 2), 0.1, dtype=torch.float64),
        "d": torch.zeros(0, 4),
        "e": torch.tensor([True]),
    }
    write_checkpoint(tmp_path / "x.safetensors", state)
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in state.items()
    }


def test_views_and_shared_storage(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"t": whole.T, "row": whole[1], "again": whole}
    for name in ("x.pt", "x.safetensors"):
        write_checkpoint(tmp_path / name, state)
        found = open_checkpoint(tmp_path / name)
        assert all(torch.equal(found[k], v) for k, v in state.items())


def test_a_view_is_saved_without_the_rest(tmp_path):
    write_checkpoint(tmp_path / "x.pt", {"row": torch.zeros(100_000)[:2]})
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def test_statistics_may_be_files(files):
    measured = diagonals()
    for task, state in measured.items():
        write_checkpoint(files / f"fisher_{task}.safetensors", state)
    opened = {t: open_checkpoint(files / f"fisher_{t}.safetensors") for t in "pq"}
    merge_checkpoints(
        files / "base", paths(files), files / "o.pt", "fisher", statistics=opened
    )
    states = {"p": draw(1), "q": draw(2)}
    expected = baselines.fisher(draw(0), states, statistics=measured)
    found = open_checkpoint(files / "o.pt")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_reading_gives_memory_of_its_own(files):
    for path in (*paths(files).values(), files / "base"):
        opened = open_checkpoint(path)
        opened["0.weight"].zero_()
        assert bool(opened["0.weight"].any())
        assert len(opened) == len(SHAPES) + 2


def test_state_dict_inside_of_a_training_file(tmp_path):
    torch.save({"model": draw(1), "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        open_checkpoint(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="'net'"):
        open_checkpoint(tmp_path / "x.pt", key="net")
    found = open_checkpoint(tmp_path / "x.pt", key="model")
    assert torch.equal(found["0.weight"], draw(1)["0.weight"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("task", ["p", "q"])
def test_half_written_files_are_named_and_nothing_is_left(share, task, files):
    path = paths(files)[task]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    before = left(files)
    with pytest.raises(CheckpointError, match=path.name):
        merge_checkpoints(
            files / "base", paths(files), files / "out.safetensors", "average"
        )
    assert left(files) == before


def test_damaged_and_missing_files(files):
    path = files / "p.safetensors"
    content = bytearray(path.read_bytes())
    content[9:12] = b"\xff\xff\xff"
    path.write_bytes(bytes(content))
    (files / "text.pt").write_text("no tensors")
    for bad in (path, files / "text.pt", files / "nowhere.pt"):
        with pytest.raises(CheckpointError, match=bad.name):
            open_checkpoint(bad)


class Trap:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))]
)
def test_code_in_a_file_is_not_run(write, tmp_path):
    trace = tmp_path / "trace"
    write({"w": Trap(trace)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        open_checkpoint(tmp_path / "x.pt")
    assert not trace.exists()


def test_broken_folders(files):
    base = files / "base"
    index = base / "model.safetensors.index.json"
    text = index.read_text()
    shard = next(iter(json.loads(text)["weight_map"].values()))
    content = (base / shard).read_bytes()
    (base / shard).unlink()
    with pytest.raises(CheckpointError, match=shard):
        open_checkpoint(base)
    save_file({"other": torch.ones(1)}, base / shard)
    with pytest.raises(CheckpointError, match="lacks"):
        open_checkpoint(base)
    (base / shard).write_bytes(content)
    index.write_text(text[:-20])
    with pytest.raises(CheckpointError, match="index"):
        open_checkpoint(base)
    index.write_text(text.replace(shard, "../p.safetensors"))
    with pytest.raises(CheckpointError, match="outside"):
        open_checkpoint(base)
    index.unlink()
    with pytest.raises(CheckpointError, match="no index"):
        open_checkpoint(base)


def test_unequal_files_are_named_before_anything_is_written(files):
    other = draw(2)
    other["0.bias"] = torch.zeros(6)
    torch.save(other, files / "q.pt")
    before = left(files)
    with pytest.raises(LayoutMismatchError, match=r"'q'.*'0\.bias'.*\(6,\).*\(7,\)"):
        merge_checkpoints(files / "base", paths(files), files / "out.pt", "average")
    assert left(files) == before


@pytest.mark.parametrize("out", ["out.pt", "out.safetensors", "new/out.pt", "out"])
def test_numbers_that_are_not_finite_leave_nothing(out, files):
    other = draw(2)
    other["1.scale"] = torch.tensor(torch.inf)
    torch.save(other, files / "q.pt")
    with pytest.raises(NonFiniteParameterError, match=r"'q'.*'1\.scale'"):
        merge_checkpoints(files / "base", paths(files), files / out, "average")
    kept = [path for path in files.rglob("*") if path.is_file()]
    assert not [path for path in kept if "out" in path.name or "part" in path.name]


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_an_interrupt_leaves_the_old_file(name, tmp_path):
    write_checkpoint(tmp_path / name, {"w": torch.ones(2), "v": torch.ones(1)})
    before = (tmp_path / name).read_bytes()

    def pairs():
        yield "w", torch.zeros(2)
        raise KeyboardInterrupt

    like = {"w": torch.ones(2), "v": torch.ones(1)}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / name, pairs(), like=like)
    assert (tmp_path / name).read_bytes() == before
    assert left(tmp_path) == [name]


def test_pairs_must_be_those_announced(tmp_path):
    like = {"w": torch.ones(2), "v": torch.ones(1)}
    for pairs in (
        [("w", torch.ones(2))],
        [("w", torch.ones(3))],
        [("w", torch.ones(2).double())],
        [("u", torch.ones(2))],
    ):
        for name in ("x.pt", "x.safetensors", "x"):
            with pytest.raises(CheckpointError):
                write_checkpoint(tmp_path / name, iter(pairs), like=like)
    assert left(tmp_path) == []
    with pytest.raises(ConfigurationError, match="like"):
        write_checkpoint(tmp_path / "x.pt", iter(like.items()))


def test_places_that_cannot_be_written(tmp_path):
    state = {"w": torch.ones(2)}
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        write_checkpoint(tmp_path / "file" / "x.pt", state)
    write_checkpoint(tmp_path / "folder", state)
    with pytest.raises(CheckpointError, match="taken"):
        write_checkpoint(tmp_path / "folder", state)
    with pytest.raises(CheckpointError, match=r"\.onnx"):
        write_checkpoint(tmp_path / "x.onnx", state)
    with pytest.raises(CheckpointError, match="complex"):
        write_checkpoint(
            tmp_path / "x.safetensors", {"w": torch.ones(1, dtype=torch.cfloat)}
        )
    assert left(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("name", ["x.safetensors", "x"])
def test_a_full_disk_is_named_and_nothing_is_left(name, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(tmp_path / name, {"w": torch.ones(2)})
    assert left(tmp_path) == []


def test_shards_of_torch_files(tmp_path):
    state = draw(1)
    names = list(state)
    halves = {"a.bin": names[:2], "b.bin": names[2:]}
    for file, part in halves.items():
        torch.save({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: f for f, part in halves.items() for name in part}}
    (tmp_path / "model.bin.index.json").write_text(json.dumps(index))
    found = open_checkpoint(tmp_path)
    assert list(found) == names
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_merging_into_one_of_the_inputs(files):
    expected = baselines.average(draw(0), {"p": draw(1), "q": draw(2)})
    merge_checkpoints(files / "base", paths(files), files / "q.pt", "average")
    found = open_checkpoint(files / "q.pt")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("how", "options"),
    [("mean", {}), ("ties", {"densty": 0.1}), ("regmean", {}), ("dare", {})],
)
def test_methods_and_options_are_checked(how, options, files):
    with pytest.raises(ConfigurationError):
        merge_checkpoints(files / "base", paths(files), files / "o.pt", how, **options)


def test_without_safetensors_the_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match="checkpoints"):
        open_checkpoint(files / "p.safetensors")
    assert len(open_checkpoint(files / "q.pt")) == len(SHAPES) + 2
