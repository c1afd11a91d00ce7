"""Problems of merging: one network fine-tuned to eight views of the same digits.

An encoder of three layers under a head learns digits under random changes. Eight copies
go on with the head frozen, each on digits that are turned, moved, scaled, sheared,
faint or noisy. All copies of all repetitions train as one batch of networks. The images
that a copy learns from, the unlabelled ones that merging sees, those that settings and
temperatures are chosen on, and those that accuracies are counted on are apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as f

CLASSES = 10
HEAD = ("head.weight", "head.bias")
TRAINING = torch.float32
Params = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]


class View(NamedTuple):
    """What a task does to an image; lengths in image heights."""

    angle: float = 0.0  # degrees
    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    shear: float = 0.0
    contrast: float = 1.0
    noise: float = 0.0


UPRIGHT = View()
TASKS: dict[str, View] = {
    "turned left": View(angle=35.0),
    "turned right": View(angle=-35.0),
    "moved right": View(right=0.2),
    "moved down": View(down=0.2),
    "zoomed": View(zoom=1.6),
    "sheared": View(shear=0.7),
    "faint": View(contrast=0.25),
    "noisy": View(noise=0.33),
}
# standard deviations of angle, places, log zoom and shear that are drawn for each image
PRETRAINING = (10.0, 0.04, 0.1, 0.1)
FINE_TUNING = (2.5, 0.01, 0.025, 0.025)


class Sizes(NamedTuple):
    """Images of each purpose, and steps of training."""

    width: int = 64
    fitted: int = 500
    unlabelled: int = 200
    validation: int = 397
    draws: int = 4  # views of each validation and test image
    copies: int = 8  # views of each image in pretraining
    pretraining: int = 1000
    fine_tuning: int = 150
    joint: int = 600
    batch: int = 100


class Network(nn.Module):
    """Three layers and a head, as :func:`logits` has them."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `(N, 10)`."""
        for layer in (self.first, self.second, self.third):
            x = layer(x).relu()
        return self.head(x)


class Problem(NamedTuple):
    """One repetition. Mappings go from tasks to what they have."""

    base: Params
    models: dict[str, Params]
    joint: Params
    unlabelled: dict[str, Tensor]
    validation: dict[str, Pair]
    test: dict[str, Pair]

    def module(self, task: str) -> Network:
        """The network of a task."""
        state = self.models[task]
        width, pixels = state["first.weight"].shape
        network = Network(pixels, width).double()
        network.load_state_dict(state)
        return network

    def first(self, most: int) -> "Problem":
        """The same with the first validation and test images of each task alone."""
        validation, test = (
            {task: (x[:most], y[:most]) for task, (x, y) in pairs.items()}
            for pairs in (self.validation, self.test)
        )
        return self._replace(validation=validation, test=test)

    def own(self, on: str = "test") -> dict[str, float]:
        """Accuracy of each task's own network, in percent."""
        sets: dict[str, Pair] = getattr(self, on)
        return {
            name: percent(logits(self.models[name], x), y)
            for name, (x, y) in sets.items()
        }

    def accuracy(self, params: Mapping[str, Tensor], on: str) -> dict[str, float]:
        """Accuracy of one network on each task, in percent."""
        sets: dict[str, Pair] = getattr(self, on)
        return {name: percent(logits(params, x), y) for name, (x, y) in sets.items()}


def percent(scores: Tensor, y: Tensor) -> float:
    """Percentage of rows whose largest score is that of the label."""
    return 100.0 * (scores.argmax(-1) == y).double().mean().item()


def logits(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Class scores of one network, or of a batch of them."""
    for name in ("first", "second", "third"):
        x = x @ params[f"{name}.weight"].mT + params[f"{name}.bias"].unsqueeze(-2)
        x = x.relu()
    return x @ params["head.weight"].mT + params["head.bias"].unsqueeze(-2)


def seen(
    images: Tensor, view: View, spread: Sequence[float], generator: torch.Generator
) -> Tensor:
    """View images as a task does, each a little differently.

    Args:
        images: grey levels from 0 to 1, `(N, side, side)`.
        view: of the task.
        spread: of what is drawn for each image.
        generator: of the draws.

    Returns:
        Pixels, from about -0.5 to 0.5, `(N, side * side)`.
    """
    count, side = len(images), images.shape[-1]
    free = torch.randn(5, count, generator=generator, dtype=images.dtype)
    angle = (view.angle + spread[0] * free[0]) * math.pi / 180
    place = free.new_tensor([[view.right], [view.down]]) + spread[1] * free[1:3]
    zoom = view.zoom * (spread[2] * free[3]).exp()
    shear = view.shear + spread[3] * free[4]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # from a place in the view to that in the image, both from -1 to 1
    rows = torch.stack([cos, -sin + shear * cos, sin, cos + shear * sin], -1)
    matrix = rows.view(count, 2, 2)
    offset = -(matrix @ (2 * place.T).unsqueeze(-1))
    affine = torch.cat([matrix, offset], -1)
    grid = f.affine_grid(affine, [count, 1, side, side], align_corners=False)
    found = f.grid_sample(images.unsqueeze(1), grid, align_corners=False).flatten(1)
    noise = torch.randn(found.shape, generator=generator, dtype=images.dtype)
    return view.contrast * (found - 0.5) + view.noise * noise


def start(pixels: int, width: int, generator: torch.Generator) -> Params:
    """Draw the weights of a network."""
    found: Params = {}
    sizes = (pixels, width, width, width)
    for i, name in enumerate(("first", "second", "third", "head")):
        outside = CLASSES if name == "head" else width
        scale = math.sqrt((1 if name == "head" else 2) / sizes[i])
        weight = torch.randn(outside, sizes[i], generator=generator, dtype=TRAINING)
        found[f"{name}.weight"] = scale * weight
        found[f"{name}.bias"] = torch.zeros(outside, dtype=TRAINING)
    return found


def fit(
    params: Params,
    x: Tensor,
    y: Tensor,
    *,
    rate: float,
    steps: int,
    batch: int,
    generator: torch.Generator,
    frozen: Sequence[str] = (),
) -> Params:
    """Fit a batch of networks by Adam, whose rate falls to nothing.

    Args:
        params: start, each tensor with a leading axis of networks.
        x: inputs, `(networks, N, pixels)`.
        y: digits, `(networks, N)`.
        rate: at first.
        steps: how many.
        batch: inputs of a step.
        generator: of the batches.
        frozen: names that stay.

    Returns:
        The fitted tensors.
    """
    free = {
        name: value.clone().requires_grad_()
        for name, value in params.items()
        if name not in frozen
    }
    adam = torch.optim.Adam(list(free.values()), lr=rate)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    networks = torch.arange(len(x)).unsqueeze(-1)
    for _ in range(steps):
        rows = torch.randint(x.shape[1], (len(x), batch), generator=generator)
        scores = logits({**params, **free}, x[networks, rows])
        loss = f.cross_entropy(scores.flatten(0, 1), y[networks, rows].flatten())
        adam.zero_grad()
        (loss * len(x)).backward()  # each network has the mean of its own batch
        adam.step()
        rates.step()
    return {name: free.get(name, value).detach() for name, value in params.items()}


def digits() -> Pair:
    """The images of scikit-learn, `(1797, 8, 8)` from 0 to 1, and their digits."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16.0, dtype=TRAINING)
    return images.view(-1, 8, 8), torch.tensor(labels)


def problems(
    images: Tensor, y: Tensor, seeds: Sequence[int], sizes: Sizes, last: int = 0
) -> list[Problem]:
    """Make a problem of each seed; the networks of all train together.

    Training is in single precision. Problems are in double. The last images are those
    of the test, if a number is given, and all that are left otherwise.
    """
    splits = [split(images, y, sizes, seed, last) for seed in seeds]
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    batches = torch.Generator().manual_seed(seeds[0])
    fitted = [parts["fitted"] for parts in splits]
    pairs = list(zip(fitted, generators, strict=True))
    copies = len(TASKS)
    mild = torch.stack(
        [
            torch.cat([seen(x, UPRIGHT, PRETRAINING, g) for _ in range(sizes.copies)])
            for (x, _), g in pairs
        ]
    )
    labels = torch.stack([label for _, label in fitted])
    drawn = [start(images[0].numel(), sizes.width, g) for g in generators]
    begun = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    pretrained = fit(
        begun,
        mild,
        labels.repeat(1, sizes.copies),
        rate=2e-3,
        steps=sizes.pretraining,
        batch=sizes.batch,
        generator=batches,
    )
    views = torch.stack(
        [
            torch.stack([seen(x, view, FINE_TUNING, g) for view in TASKS.values()])
            for (x, _), g in pairs
        ]
    )  # (seeds, tasks, N, pixels)
    tuned = fit(
        {name: v.repeat_interleave(copies, 0) for name, v in pretrained.items()},
        views.flatten(0, 1),
        labels.repeat_interleave(copies, 0),
        rate=1e-3,
        steps=sizes.fine_tuning,
        batch=sizes.batch,
        generator=batches,
        frozen=HEAD,
    )
    joint = fit(
        pretrained,
        views.flatten(1, 2),
        labels.repeat(1, copies),
        rate=2e-3,
        steps=sizes.joint,
        batch=4 * sizes.batch,
        generator=batches,
        frozen=HEAD,
    )
    found = []
    for i, (parts, g) in enumerate(zip(splits, generators, strict=True)):
        models = {
            name: {n: v[i * copies + k].double() for n, v in tuned.items()}
            for k, name in enumerate(TASKS)
        }
        problem = Problem(
            {n: v[i].double() for n, v in pretrained.items()},
            models,
            {n: v[i].double() for n, v in joint.items()},
            {task: x for task, (x, _) in viewed(parts["unlabelled"], 1, g).items()},
            viewed(parts["validation"], sizes.draws, g),
            viewed(parts["test"], sizes.draws, g),
        )
        found.append(problem)
    return found


def viewed(part: Pair, draws: int, generator: torch.Generator) -> dict[str, Pair]:
    """Views of images by every task, some of each image."""
    images, label = part
    return {
        name: (
            torch.cat(
                [seen(images, view, FINE_TUNING, generator) for _ in range(draws)]
            ).double(),
            label.repeat(draws),
        )
        for name, view in TASKS.items()
    }


def split(
    images: Tensor, y: Tensor, sizes: Sizes, seed: int, last: int
) -> dict[str, Pair]:
    """Split images by purpose; the test has the last ones, or the rest."""
    free = len(y) - last
    order = torch.randperm(free, generator=torch.Generator().manual_seed(seed))
    counts = [sizes.fitted, sizes.unlabelled, sizes.validation]
    *parts, rest = order.split([*counts, free - sum(counts)])
    parts.append(torch.arange(free, len(y)) if last else rest)
    names = ("fitted", "unlabelled", "validation", "test")
    return {name: (images[i], y[i]) for name, i in zip(names, parts, strict=True)}
