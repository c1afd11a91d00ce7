"""The vision tower of CLIP, with the tensor names of its checkpoints at Hugging Face.

Plain torch, so that derivatives in forward mode pass through every layer. Tensors of
`CLIPModel`, `CLIPVisionModel` and `CLIPVisionModelWithProjection` load strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_geo.errors import CheckpointError, LayoutMismatchError
from pyro_geo.summaries.merge.checkpoints import Checkpoint, open_checkpoint

PROJECTION = "visual_projection.weight"
_SCALE = "logit_scale"
_BUFFERS = ("position_ids",)  # in older files; the tower makes its own
_LAYERS = "vision_model.encoder.layers."


class Shape(NamedTuple):
    """Sizes of a tower.

    Attributes:
        width: of the hidden states.
        layers: number of blocks.
        heads: of the attention.
        inner: width inside the two-layer networks.
        patch: side of a patch, in pixels.
        image: side of an image, in pixels.
        projection: width of the embedding.
        activation: `"quick_gelu"` or `"gelu"`.
        epsilon: of the layer norms.
    """

    width: int
    layers: int
    heads: int
    inner: int
    patch: int
    image: int
    projection: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5


class LayerNorm(nn.LayerNorm):
    """Layer norm in single steps: the fused one has a slow derivative forward."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        apart = input - input.mean(-1, keepdim=True)
        spread = apart.square().mean(-1, keepdim=True)
        return apart * (spread + self.eps).rsqrt() * self.weight + self.bias


class Attention(nn.Module):
    """Attention of all tokens to all tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.k_proj = nn.Linear(shape.width, shape.width)
        self.v_proj = nn.Linear(shape.width, shape.width)
        self.q_proj = nn.Linear(shape.width, shape.width)
        self.out_proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, `(n, tokens, width)`."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        # written out: the fused kernels have no derivative in forward mode
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers, token by token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.quick = shape.activation == "quick_gelu"
        self.fc1 = nn.Linear(shape.width, shape.inner)
        self.fc2 = nn.Linear(shape.inner, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Change tokens, `(n, tokens, width)`."""
        x = self.fc1(x)
        x = x * (1.702 * x).sigmoid() if self.quick else nn.functional.gelu(x)
        return self.fc2(x)


class Block(nn.Module):
    """Attention and perceptron, each on normalised tokens and added to them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.layer_norm1 = LayerNorm(shape.width, shape.epsilon)
        self.mlp = Perceptron(shape)
        self.layer_norm2 = LayerNorm(shape.width, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Change tokens, `(n, tokens, width)`."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    """Patches and the class token, with their positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size = (shape.image // shape.patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.randn(shape.width))
        self.patch_embedding = nn.Conv2d(
            3, shape.width, shape.patch, shape.patch, bias=False
        )
        self.position_embedding = nn.Embedding(size, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, 3, side, side)` to tokens, `(n, tokens, width)`."""
        patches = self.patch_embedding(x).flatten(2).mT
        first = self.class_embedding.expand(len(x), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class VisionModel(nn.Module):
    """What `vision_model.` stands for in the names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.pre_layrnorm = LayerNorm(shape.width, shape.epsilon)  # their spelling
        blocks = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.encoder = nn.ModuleDict({"layers": blocks})
        self.post_layernorm = LayerNorm(shape.width, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Images to the class token of the last block, `(n, width)`."""
        x = self.pre_layrnorm(self.embeddings(x))
        blocks: Any = self.encoder["layers"]
        for block in blocks:
            x = block(x)
        return self.post_layernorm(x[:, 0])


class Tower(nn.Module):
    """Images to embeddings, `(n, projection)`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.vision_model = VisionModel(shape)
        self.visual_projection = nn.Linear(shape.width, shape.projection, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images, `(n, 3, side, side)`."""
        return self.visual_projection(self.vision_model(x))


# -- files ----------------------------------------------------------------------------


class Base(NamedTuple):
    """The pretrained network.

    Attributes:
        tower: its module.
        state: tensors of the tower.
        scale: what similarities are multiplied by.
    """

    tower: Tower
    state: dict[str, Tensor]
    scale: float


def read_base(path: str | Path) -> Base:
    """Read the pretrained network.

    Args:
        path: file or folder of a `CLIPModel` or of its vision tower with projection; a
            `config.json` beside it is read for the heads and the activation.

    Returns:
        The network.
    """
    path = Path(path)
    file = open_checkpoint(path)
    shape = shape_of(file, _config(path), str(path))
    tower = Tower(shape).eval()
    state = _tower_state(file, tower, str(path), optional=())
    tower.load_state_dict(state, strict=True)
    scale = float(file[_SCALE].double().exp()) if _SCALE in file else 100.0
    return Base(tower, state, scale)


def read_task(path: str | Path, base: Base) -> dict[str, Tensor]:
    """Read a fine-tuned tower.

    Args:
        path: file or folder.
        base: that it started from; a file without projection has that of the base.

    Returns:
        The tensors, named and ordered as in the base.
    """
    file = open_checkpoint(path)
    found = _tower_state(file, base.tower, str(path), optional=(PROJECTION,))
    return {name: found.get(name, value) for name, value in base.state.items()}


def read_heads(path: str | Path, tasks: list[str], width: int) -> dict[str, Tensor]:
    """Read the embeddings of the class names of each task.

    Args:
        path: a file with a tensor `(classes, width)` for each task.
        tasks: their names.
        width: of an embedding.

    Returns:
        Task to rows of length 1.

    Raises:
        LayoutMismatchError: a task is missing, or its embeddings have another width.
    """
    file = open_checkpoint(path)
    heads = {}
    for task in tasks:
        rows = file[task].float() if task in file else torch.empty(0)
        if rows.dim() != 2 or rows.shape[1] != width:
            raise LayoutMismatchError(
                "the heads do not fit the tower",
                where=f"{path}, task {task!r}",
                found=tuple(rows.shape) if task in file else f"tasks {sorted(file)}",
                expected=f"a tensor (classes, {width})",
                todo="Embed the class names by the text tower of the same CLIP.",
            )
        heads[task] = nn.functional.normalize(rows, dim=-1)
    return heads


def shape_of(file: Checkpoint, config: Mapping[str, Any], where: str) -> Shape:
    """Read the sizes of a tower off its tensors.

    Args:
        file: with the tensors.
        config: settings beside it; heads have 64 channels without any.
        where: it is, for the message.

    Returns:
        The sizes.

    Raises:
        CheckpointError: there is no tower in it.
    """
    frame = file.frame()
    patch = frame.get("vision_model.embeddings.patch_embedding.weight")
    places = frame.get("vision_model.embeddings.position_embedding.weight")
    inner = frame.get(f"{_LAYERS}0.mlp.fc1.weight")
    projection = frame.get(PROJECTION)
    if patch is None or places is None or inner is None or projection is None:
        raise CheckpointError(
            "no vision tower with its projection",
            where=where,
            found=f"{len(frame)} tensors, {sorted(frame)[:2]} and others",
            expected=f"`vision_model.` and {PROJECTION!r}",
            todo="Pass the checkpoint of a CLIPModel.",
        )
    width, side = patch.shape[0], patch.shape[-1]
    grid = round((len(places) - 1) ** 0.5)
    numbers = {name.split(".")[3] for name in frame if name.startswith(_LAYERS)}
    return Shape(
        width,
        len(numbers),
        config.get("num_attention_heads", max(1, width // 64)),
        len(inner),
        side,
        grid * side,
        len(projection),
        config.get("hidden_act", "quick_gelu"),
        config.get("layer_norm_eps", 1e-5),
    )


def _config(path: Path) -> dict[str, Any]:
    place = (path if path.is_dir() else path.parent) / "config.json"
    if not place.exists():
        return {}
    found = json.loads(place.read_text())
    return found.get("vision_config", found)


def _tower_state(
    file: Checkpoint, tower: Tower, where: str, optional: tuple[str, ...]
) -> dict[str, Tensor]:
    """Take the tensors of the tower, and leave out text, scale and buffers."""
    wanted = tower.state_dict()
    prefix = "vision_model."
    names = [n for n in file if n.startswith(prefix) or n == PROJECTION]
    names = [n for n in names if n.rpartition(".")[2] not in _BUFFERS]
    missing = [n for n in wanted if n not in names and n not in optional]
    wrong = [n for n in names if n not in wanted] + missing
    frame = file.frame()
    wrong += [n for n in names if n in wanted and frame[n].shape != wanted[n].shape]
    if wrong:
        name = wrong[0]
        raise LayoutMismatchError(
            "a checkpoint does not have the tensors of the base's tower",
            where=f"{where}, tensor {name!r}",
            found=tuple(frame[name].shape) if name in frame else "no such tensor",
            expected=tuple(wanted[name].shape) if name in wanted else "no such tensor",
            todo="Pass vision towers of one architecture, as published.",
        )
    return {n: file[n].float() for n in wanted if n in names}


# -- as functions ---------------------------------------------------------------------


def classifier(
    base: Base, head: Tensor
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """Make the function of parameters and images to the logits of a task.

    Args:
        base: with the tower and the scale.
        head: embeddings of the classes, `(classes, projection)`.

    Returns:
        The function.
    """

    def forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
        embedding = functional_call(base.tower, params, (x,))
        unit = embedding / embedding.norm(dim=-1, keepdim=True)
        return base.scale * unit @ head.to(unit).mT

    return forward
