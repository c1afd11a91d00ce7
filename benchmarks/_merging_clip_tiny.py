"""A tiny random CLIP in the files of the large one, to walk every path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _merging_clip import PROJECTION, Base, Shape, Tower, classifier
from torch import Tensor
from torch.func import functional_call

from pyro_geo.summaries.merge.checkpoints import write_checkpoint

SHAPE = Shape(
    width=16, layers=2, heads=2, inner=32, patch=4, image=8, projection=8, epsilon=1e-5
)
CLASSES = {"alpha": 5, "beta": 4, "gamma": 3}
_SCALE = 20.0
_APART = 0.5  # of a fine-tuned tower, relative to its tensors


def write_tiny(
    folder: Path, *, count: int = 60, seed: int = 0, labels: bool = True
) -> dict[str, Any]:
    """Write checkpoints, heads and images.

    The labels of a task are what its own tower says, so that alone it makes no error.

    Args:
        folder: where.
        count: images of a task.
        seed: of all numbers.
        labels: whether to write the labels.

    Returns:
        The options of the program that read them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = Tower(SHAPE).eval()
        with torch.no_grad():
            tower.vision_model.embeddings.patch_embedding.weight.mul_(4)
            tower.vision_model.embeddings.class_embedding.mul_(0.1)
        base = {name: x.detach() for name, x in tower.state_dict().items()}
        write_base(folder / "base", base)
        (folder / "images").mkdir()
        tasks, heads = {}, {}
        for task, classes in CLASSES.items():
            state = {
                n: x if n == PROJECTION else x + _APART * x.std() * torch.randn_like(x)
                for n, x in base.items()
            }
            tasks[task] = str(folder / f"{task}.safetensors")
            tower_only = {n: x for n, x in state.items() if n != PROJECTION}
            write_checkpoint(tasks[task], tower_only)
            images = torch.randn(count, 3, SHAPE.image, SHAPE.image)
            with torch.no_grad():
                seen = functional_call(tower, state, (images,))
                # classes around some of the images, apart from what all share
                rows = (seen - seen.mean(0))[:classes]
                heads[task] = torch.nn.functional.normalize(rows, dim=-1)
                forward = classifier(Base(tower, base, _SCALE), heads[task])
                found = forward(state, images).argmax(-1)
            arrays: dict[str, Any] = {"images": images.numpy()}
            if labels:
                arrays["labels"] = found.numpy()
            np.savez(folder / "images" / f"{task}.npz", **arrays)
        write_checkpoint(folder / "heads.safetensors", heads)
    return {
        "base": str(folder / "base"),
        "task": tasks,
        "heads": str(folder / "heads.safetensors"),
        "images": str(folder / "images"),
        "calibration": count // 3,
        "rank_fraction": 0.4,
    }


def write_base(folder: Path, state: dict[str, Tensor]) -> None:
    """Write a folder like that of a `CLIPModel`, with some of its other tensors.

    Args:
        folder: where.
        state: of the tower.
    """
    folder.mkdir()
    other = {
        "logit_scale": torch.tensor(_SCALE).log(),
        "text_projection.weight": torch.zeros(SHAPE.projection, 4),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    write_checkpoint(folder / "model.safetensors", {**state, **other})
    config = {
        "num_attention_heads": SHAPE.heads,
        "hidden_act": SHAPE.activation,
        "layer_norm_eps": SHAPE.epsilon,
    }
    (folder / "config.json").write_text(json.dumps({"vision_config": config}))
