"""The published update of selective projection decay, a gate for it, and twins.

The update is written from the formulas, one tensor after the other, with Adam's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo.optim import SPD

__all__ = [
    "LateNorm",
    "MomentumCondition",
    "PublishedSPD",
    "SharedAnchor",
    "check_decay",
]


class PublishedSPD(torch.optim.Optimizer):
    r"""Adam with selective projection decay, tensor by tensor, as it was published.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              \theta' = \theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon), \quad
              \theta \leftarrow \theta' - \lambda r (\theta' - a)

    with `r` of :func:`~pyro_geo.optim.decay.rule.deviation_ratio`, no minimum, and a
    branch on the host for each tensor. A reference and a peer, not for use.

    Args:
        params: parameters.
        anchors: one for each, None for zeros.
        lr: learning rate.
        betas: Adam's.
        eps: Adam's.
        spd: strength.
        amsgrad: whether the largest `v` so far takes the place of `v`.

    References:
        Tian, Huang and Kira (2024), Rethinking Weight Decay for Robust Fine-Tuning of
        Foundation Models, arXiv 2411.01713.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        anchors: Sequence[Tensor | None],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        spd: float = 1.0,
        amsgrad: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "spd": spd}
        super().__init__(params, {**options, "amsgrad": amsgrad})
        self.anchors = [
            torch.zeros_like(p) if a is None else a
            for p, a in zip(params, anchors, strict=True)
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step."""
        (group,) = self.param_groups
        for param, anchor in zip(group["params"], self.anchors, strict=True):
            if param.grad is None:
                continue
            condition = -float((param.grad * (param - anchor)).sum())
            proposed = param - self._adam(param, group)
            if condition < 0:
                after = torch.linalg.vector_norm(proposed - anchor)
                before = torch.linalg.vector_norm(param - anchor)
                ratio = torch.relu((after - before) / after)
                proposed = proposed - group["spd"] * ratio * (proposed - anchor)
            param.copy_(proposed)

    def _adam(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        state, (beta1, beta2) = self.state[param], group["betas"]
        if not state:
            state["step"] = 0
            state["m"], state["v"] = torch.zeros_like(param), torch.zeros_like(param)
            state["largest"] = torch.zeros_like(param)
        state["step"] += 1
        state["m"].mul_(beta1).add_(param.grad, alpha=1 - beta1)
        state["v"].mul_(beta2).addcmul_(param.grad, param.grad, value=1 - beta2)
        v = state["v"]
        if group["amsgrad"]:
            v = torch.maximum(state["largest"], v, out=state["largest"])
        m = state["m"] / (1 - beta1 ** state["step"])
        spread = (v / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        return group["lr"] * m / spread


def check_decay(
    make: Callable[..., torch.optim.Optimizer] = SPD,
    *,
    tolerance: float = 1e-12,
    num_steps: int = 60,
    **options: Any,
) -> None:
    """Hold an optimiser against the published update on a noisy quadratic.

    Args:
        make: called with parameters and the options of `SPD`.
        tolerance: on the largest difference of any parameter at any step.
        num_steps: steps of Adam.
        **options: of Adam, `spd` too.

    It is an `AssertionError` where they differ.

    Example:
        >>> check_decay(spd=0.5)
    """
    generator = torch.Generator().manual_seed(0)
    real = {"generator": generator, "dtype": torch.float64}
    starts = [torch.randn(shape, **real) for shape in [(3, 4), (5,), ()]]
    anchors = [start + 0.1 * torch.randn(start.shape, **real) for start in starts]
    goals = [start + torch.randn(start.shape, **real) for start in starts]
    ours, theirs = ([torch.nn.Parameter(s.clone()) for s in starts] for _ in range(2))
    options = {"lr": 0.05, "spd": 1.0} | options
    base = {"allow_overshoot": True, "anchor": [a.clone() for a in anchors]}
    one = make(ours, **options, **base)
    other = PublishedSPD(theirs, anchors, **options)
    moved = 0.0
    for step in range(num_steps):
        for p, q, goal in zip(ours, theirs, goals, strict=True):
            noise = 2 * torch.randn(goal.shape, **real)
            # both get the gradient where the published update is
            p.grad = (q - goal + noise).detach()
            q.grad = p.grad.clone()
        before = [q.detach().clone() for q in theirs]
        one.step()
        other.step()
        gap = max(
            float((p - q).abs().max().detach())
            for p, q in zip(ours, theirs, strict=True)
        )
        assert gap <= tolerance, f"step {step}: parameters differ by {gap:.2e}"
        moved += sum(
            float((p - q).detach().abs().sum())
            for p, q in zip(before, theirs, strict=True)
        )
    assert moved > 1.0, "the reference did not move"


# -- twins ----------------------------------------------------------------------------


class SharedAnchor(SPD):
    """Keep the parameters themselves as anchors: nothing is ever decayed.

    In the published program this happens silently when a list of parameters is passed.
    """

    def __init__(self, params: Sequence[Tensor], anchor: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self._anchors = {param: param.detach() for param in params}


class MomentumCondition(SPD):
    """Decide by Adam's momentum in place of the gradient of this step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step whose condition sees the momentum."""
        gradients, beta = {}, self.param_groups[0].get("betas", (0.9,))[0]
        for param in self.param_groups[0]["params"]:
            gradients[param] = param.grad
            momentum = self.state.get(param, {}).get("exp_avg", 0 * param.detach())
            param.grad = beta * momentum + (1 - beta) * param.grad
        settings, bundles = self._settings(), self._current()
        for bundle in bundles:
            bundle.look(settings)
        for param, gradient in gradients.items():
            param.grad = gradient
        self.base.step()
        for bundle in bundles:
            bundle.settle(settings)
        return None


class LateNorm(SPD):
    """Measure the radius after the base step: it never grows, and nothing decays."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step of the base before anything is measured."""
        self.base.step()
        settings, bundles = self._settings(), self._current()
        for bundle in bundles:
            bundle.look(settings)
            bundle.settle(settings)
        return None
