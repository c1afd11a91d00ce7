"""Resuming a store that somebody else has edited: refused, and left as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.errors import CheckpointError
from pyro_geo.infer import MCMC
from pyro_geo.testing.hmc import FixedHMC
from tests.io import hostile

Edit = Callable[[str], str]


def model():
    pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))


def run(store: Path, num_samples: int = 30) -> MCMC:
    kernel = FixedHMC(model, step_size=0.2, num_steps=2)
    options: dict[str, Any] = {"num_chains": 3, "seed": 1, "compile": False}
    options |= {"warmup_steps": 2, "progress_bar": False}
    return MCMC(kernel, num_samples, store=store, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run.zarr"
    run(path).run()
    return path


def replace(old: str, new: str) -> Edit:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


EDITS = {
    "outside": replace("posterior/mean", "../../victim/x"),
    "absolute": replace("posterior/mean", "/elsewhere/victim"),
    "huge": replace('"shape": [3, 30]', '"shape": [3, 1000000000000]'),
    "negative": replace('"shape": [3, 30]', '"shape": [-3, 30]'),
    "planned": replace('"planned_draws": 30', '"planned_draws": 1000000000000'),
    "commit": replace('"commit": ', '"commit": -'),
    "draws": replace('"num_draws": 30', '"num_draws": 29'),
    "seed": replace('"seed": 1', '"seed": "one"'),
    "other seed": replace('"seed": 1', '"seed": 2'),
    "not a number": replace('"num_draws": 30', '"num_draws": NaN'),
    "truth": replace('"finished": true', '"finished": 1'),
    "codec": replace('{"name": "crc32c"}', '{"name": "zstd"}'),
    "axes": replace('["chain", "draw"]', '["draw", "chain"]'),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_store_is_refused_and_left_alone(finished, tmp_path, name, signed):
    path = tmp_path / "inner" / "run.zarr"
    shutil.copytree(finished, path)
    victim = tmp_path / "victim" / "x" / "c" / "0"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"precious")
    file = path / "zarr.json"
    file.write_text(EDITS[name](file.read_text()))
    if signed:
        hostile.sign(path)
    before = hostile.content(tmp_path)
    with pytest.raises(CheckpointError, match="found .*, expected"):
        run(path, 90).resume()
    assert hostile.content(tmp_path) == before


@pytest.mark.parametrize("name", ["posterior/mean/c/0/0", "sample_stats/lp/c/0/0"])
def test_a_flipped_bit_is_no_draw(finished, tmp_path, name):
    path = tmp_path / "run.zarr"
    shutil.copytree(finished, path)
    whole = bytearray((path / name).read_bytes())
    whole[5] ^= 1  # changes the last digits of one number
    (path / name).write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"{name}.*checksum"):
        run(path).resume()


def test_metadata_beside_the_root_are_not_believed(finished, tmp_path):
    """What is not read cannot harm: the draws of the longer run are the same."""
    path, clean = tmp_path / "run.zarr", tmp_path / "clean.zarr"
    for copy in (path, clean):
        shutil.copytree(finished, copy)
    for file in path.rglob("zarr.json"):
        if file.parent != path:
            node = json.loads(file.read_text())
            node["shape"] = [10**12]
            file.write_text(json.dumps(node))
    found, expected = run(path, 40).resume(), run(clean, 40).resume()
    assert torch.equal(found.positions, expected.positions)
