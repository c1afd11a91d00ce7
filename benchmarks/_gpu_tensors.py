"""Steps of optimisers and combinations of posteriors on both devices."""

import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from _gpu_case import Case, Result, Work, numbers
from torch.distributions import constraints

from pyro_geo import Layout
from pyro_geo.optim import SPD
from pyro_geo.summaries import GaussianPosterior, combine


def steps(shapes: Sequence[tuple[int, ...]], method: str, count: int) -> Case:
    """Take steps of an optimiser with given gradients."""

    def make(device: torch.device) -> Work:
        start = [numbers(*shape, seed=i).to(device) for i, shape in enumerate(shapes)]
        slopes = [numbers(*s, seed=i + 1000).to(device) for i, s in enumerate(shapes)]

        def begin() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
            params = [torch.nn.Parameter(p.clone()) for p in start]
            kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
                "SPD": lambda: SPD(params, torch.optim.AdamW, lr=1e-3),
                "AdamW": lambda: torch.optim.AdamW(params, lr=1e-3),
            }
            return params, kinds[method]()

        made = begin()
        turn = 0

        def work() -> Result:
            nonlocal made, turn
            params, optimiser = made
            for _ in range(count):
                for p, g in zip(params, slopes, strict=True):
                    p.grad = g if turn % 4 else -g
                turn += 1
                optimiser.step()
            return {"first": params[0].detach().clone()}

        return work

    return Case(make, 1e-4, threads=os.cpu_count() or 1)


def product(posteriors: int, dim: int, how: Literal["product", "barycenter"]) -> Case:
    """Combine dense normal posteriors."""
    layout = Layout.from_supports({"w": (torch.Size([dim]), constraints.real)})
    roots = numbers(posteriors, dim, dim, dtype=torch.float64)
    locs = numbers(posteriors, dim, seed=1, dtype=torch.float64)

    def make(device: torch.device) -> Work:
        eye = torch.eye(dim, dtype=torch.float64, device=device)
        found = [
            GaussianPosterior.from_moments(m.to(device), r @ r.mT / dim + eye, layout)
            for m, r in zip(locs, roots.to(device), strict=True)
        ]

        def work() -> Result:
            whole = combine(found, how=how)
            return {"mean of it": whole.loc, "sd": whole.scale}

        return work

    return Case(make, 1e-8, threads=os.cpu_count() or 1)


def cases(quick: bool) -> dict[str, Case]:
    """Name the cases."""
    if quick:
        return {
            "SPD, 2 of 8 x 8": steps([(8, 8)] * 2, "SPD", 2),
            "product of 3, dim 5": product(3, 5, "product"),
        }
    large = [(2048, 2048)] * 24
    return {
        "10 steps of SPD, 24 of 2,048 x 2,048": steps(large, "SPD", 10),
        "10 steps of AdamW, 24 of 2,048 x 2,048": steps(large, "AdamW", 10),
        "product of 16, dim 1,000": product(16, 1000, "product"),
        "barycenter of 4, dim 300": product(4, 300, "barycenter"),
    }
