"""Selective projection decay around any torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check_choice, check_number
from pyro_geo.errors import (
    AnchorMismatchError,
    ConfigurationError,
)
from pyro_geo.optim.decay._base import (
    align_gradients,
    check_base,
    check_gradients,
    fused_options,
    warn_of_opposed,
)
from pyro_geo.optim.decay._bundle import RECORDS, Bundle, Settings
from pyro_geo.optim.decay._bundling import blank_record, bundle_up
from pyro_geo.optim.decay.anchors import Anchor, Missing, find_anchors

__all__ = ["SPD"]


class SPD(torch.optim.Optimizer):
    r"""Pull parameters back to their anchors where the gradient asks for it.

    After a step of the base optimiser from `theta` to `theta'`, a tensor whose gradient
    points against its displacement loses a part of what it has just moved outwards:

    .. math:: \theta \leftarrow \theta' - \min(\lambda r, 1) (\theta' - a), \qquad
              r = \max\Bigl(0, \frac{\gamma' - \gamma}{\gamma'}\Bigr)
              \text{ if } \langle g, \theta - a \rangle > 0, \text{ else } 0

    with the anchor `a`, the gradient `g` at `theta` and the norms `gamma` and `gamma'`
    of `theta - a` before and after the base step. Exact: `spd=0` is the base optimiser;
    `spd=1` puts the tensor back on the sphere that it left; any `spd` up to 1 only
    slows outward motion. The strength is not multiplied by the learning rate.

    Use it to fine-tune a network, or a guide, that is trusted where it starts. Plain
    gradient descent is almost never decayed, since its steps move outwards against the
    gradient only through noise: use a base with momentum or preconditioning. It is an
    optimiser and its limit is not a MAP estimate. Uniform decay towards the anchor
    often keeps more of what was known; see the guide page.

    Args:
        params: parameters, pairs of name and parameter, or groups of either, such as
            those of :func:`~pyro_geo.optim.decay.anchors.parameter_groups`. A group may
            have its own `spd`, `anchor` and `missing`.
        base: class of the base optimiser.
        spd: strength `lambda`. Start at 1; above 6 small problems became unstable. It
            stands in the groups, where a schedule may change it.
        anchor: `"init"` for copies of the parameters as they are, None for zeros (low-
            rank adapters), `"free"` for parameters that the base alone moves, a
            sequence, or a module or state dict by name. Tensors that are given are not
            copied.
        missing: what becomes of parameters that a module or state dict does not have:
            `"raise"`, `"free"` or `"init"`.
        granularity: `"tensor"` as published, or `"group"` for norms and inner products
            of whole groups.
        allow_overshoot: leave out the minimum, as the published update does.
        condition_beta: weight of the past in a running mean of the inner product,
            whose sign then decides; 0 as published. For noisy gradients.
        track: keep the statistics of :meth:`deviation`.
        **base_options: options of the base optimiser. Adam and other bases that can be
            fused are, unless an option says how else they are to run.

    A base that evaluates the loss by itself (LBFGS) or takes sparse gradients alone is
    an :class:`~pyro_geo.errors.UnsupportedOptimizerError`, anchors that do not fit an
    :class:`~pyro_geo.errors.AnchorMismatchError`, an anchor in the memory of its
    parameter an :class:`~pyro_geo.errors.AnchorAliasError`, and at a step a sparse
    gradient a :class:`~pyro_geo.errors.SparseGradientError`.

    References:
        Tian, Huang and Kira (2024), Rethinking Weight Decay for Robust Fine-Tuning of
        Foundation Models, arXiv 2411.01713. The minimum, the groups, the running mean
        and the statistics are derived.

    Example:
        >>> theta = torch.nn.Parameter(torch.zeros(1))
        >>> options = {"lr": 0.1, "momentum": 0.9}
        >>> optimizer = SPD([theta], torch.optim.SGD, **options)
        >>> for slope in (-1.0, 0.05):
        ...     theta.grad = torch.full((1,), slope)
        ...     optimizer.step()
        >>> round(theta.item(), 6)  # the base alone goes to 0.185
        0.1
    """

    citations: ClassVar[tuple[str, ...]] = ("spd",)

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        *,
        spd: float = 1.0,
        anchor: Anchor = "init",
        missing: Missing = "raise",
        granularity: Literal["tensor", "group"] = "tensor",
        allow_overshoot: bool = False,
        condition_beta: float = 0.0,
        track: bool = True,
        **base_options: Any,
    ) -> None:
        check_choice("granularity", granularity, ("tensor", "group"))
        check_number("condition_beta", condition_beta, 0.0, 1.0)
        self.granularity = granularity
        self.allow_overshoot = allow_overshoot
        self.condition_beta = condition_beta
        self.track = track
        self.anchor, self.missing = anchor, missing
        self._base: torch.optim.Optimizer | None = None
        self._anchors: dict[Tensor, Tensor | None] = {}
        self._records: dict[Tensor, np.ndarray] = {}
        self._bundles: list[Bundle[Any]] = []
        self._key: list[Any] = []
        super().__init__(params, {"spd": spd})
        options = {
            **fused_options(base, self.param_groups, base_options),
            **base_options,
        }
        self._adopt(base(self.param_groups, **options))

    @property
    def base(self) -> torch.optim.Optimizer:
        """The base optimiser, which shares groups and state with this one."""
        assert self._base is not None
        return self._base

    def _adopt(self, base: torch.optim.Optimizer) -> None:
        check_base(base)
        self._base = base
        self._share()
        for k, group in enumerate(self.param_groups):
            warn_of_opposed(k, group, self._anchors)

    def _share(self) -> None:
        """Let the base optimiser and this one have the same groups and state."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        self.defaults = {**self.base.defaults, **self.defaults}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its own `spd`, `anchor` and `missing` where it has them.

        Args:
            param_group: `params` and options.
        """
        group = dict(param_group)
        anchor = group.pop("anchor", self.anchor)
        missing = group.pop("missing", self.missing)
        check_number("spd", group.get("spd", self.defaults["spd"]))
        if self._base is None:
            super().add_param_group(group)
        else:
            self.base.add_param_group(group)
            group.setdefault("spd", self.defaults["spd"])
        # with one sequence for several groups each group needs its own
        try:
            params, names = group["params"], group.get("param_names")
            self._anchors |= find_anchors(params, names, anchor, missing)
        except BaseException:
            self.param_groups.pop()
            raise
        if self._base is not None:
            warn_of_opposed(len(self.param_groups) - 1, group, self._anchors)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the base optimiser and decay.

        Args:
            closure: evaluates the loss and its gradients; called once.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            # the condition needs the gradient at the parameters as they still are
            with torch.enable_grad():
                loss = closure()
        align_gradients(self.param_groups)
        settings = self._settings()
        bundles = self._current()
        for bundle in bundles:
            bundle.look(settings)
        self.base.step()
        for bundle in bundles:
            bundle.settle(settings)
        return loss

    def _settings(self) -> Settings:
        groups = self.param_groups
        return Settings(
            spd=[float(group["spd"]) for group in groups],
            sign=[-1.0 if group.get("maximize") else 1.0 for group in groups],
            pooled=self.granularity == "group",
            allow_overshoot=self.allow_overshoot,
            beta=self.condition_beta,
            track=self.track,
        )

    def _current(self) -> list[Bundle[Any]]:
        """Bundle the parameters that have gradients; those of the last step mostly."""
        held = [
            (param, k)
            for k, group in enumerate(self.param_groups)
            for param in group["params"]
            if param.grad is not None and param in self._anchors
        ]
        check_gradients(param for param, _ in held)
        key = [(id(p), p.dtype, p.device, p.is_contiguous()) for p, _ in held]
        if key != self._key:
            self._flush()
            pooled = self.granularity == "group"
            self._bundles = bundle_up(held, self._anchors, self._records, pooled)
            self._key = key
        return self._bundles

    def _flush(self) -> None:
        """Take the records out of the bundles, which are then made anew."""
        for bundle in self._bundles:
            table = torch.as_tensor(bundle.records).cpu().numpy()
            for column, param in enumerate(bundle.params):
                self._records[param] = table[:, column].copy()
        self._bundles, self._key = [], []

    # -- what is kept -----------------------------------------------------------------

    def anchors(self) -> dict[int | str, Tensor | None]:
        """List the anchors.

        Returns:
            Name, or number, of the parameter to its anchor; None for zeros. Free
            parameters are left out.
        """
        return {
            label: self._anchors[param]
            for label, param in self.labels().items()
            if param in self._anchors
        }

    def reset_anchor(self, which: Iterable[int | str] | None = None) -> None:
        """Anchor parameters where they are now.

        Args:
            which: names, or numbers, of the parameters; all when None. A parameter that
                was free is anchored too where it is named.

        Raises:
            ConfigurationError: a name is not there.
        """
        labels = self.labels()
        chosen = list(self.anchors() if which is None else which)
        if unknown := [label for label in chosen if label not in labels]:
            raise ConfigurationError(
                "unknown parameter",
                where="argument which",
                found=unknown,
                expected=f"some of {list(labels)}",
                todo="Pass names where the optimiser was given names, else numbers.",
            )
        self._flush()
        for label in chosen:
            self._anchors[labels[label]] = labels[label].detach().clone()
            # how far it went belongs to the old anchor
            self._records.pop(labels[label], None)

    @torch.no_grad()
    def deviation(self) -> dict[int | str, dict[str, float]]:
        """Tell how far each parameter is from its anchor, and what SPD did to it.

        Returns:
            Name, or number, of the parameter to `l2`, `relative` (to the norm of the
            anchor, NaN at zero), and with `track` also `steps`, `conflict_rate` (share
            of steps whose gradient points against the displacement), `decay_rate`
            (share that decayed), `mean_ratio` (mean deviation ratio), `path_length`
            (sum of all outward moves, those between steps too; at least `l2` where the
            training began at the anchor) and `undone` (sum of what the decay took off).
            With granularity `"group"` these are those of the group.
        """
        self._flush()
        found = {}
        for label, anchor in self.anchors().items():
            param = self.labels()[label]
            moved = param if anchor is None else param - anchor
            l2 = float(torch.linalg.vector_norm(moved))
            size = 0.0 if anchor is None else float(torch.linalg.vector_norm(anchor))
            row = {"l2": l2, "relative": l2 / size if size else math.nan}
            found[label] = row | (self._statistics(param, l2) if self.track else {})
        return found

    def _statistics(self, param: Tensor, l2: float) -> dict[str, float]:
        record = self._records.get(param, blank_record())
        value = dict(zip(RECORDS, record.tolist(), strict=True))
        steps = max(value["steps"], 1.0)
        path = value["path_length"]
        if value["norm"] >= 0 and self.granularity == "tensor":
            # the last step is measured at the start of the next one
            path += max(0.0, l2 + value["taken"] - value["norm"])
        return {
            "steps": value["steps"],
            "conflict_rate": value["conflicts"] / steps,
            "decay_rate": value["decays"] / steps,
            "mean_ratio": value["ratio"] / steps,
            "path_length": path,
            "undone": value["undone"],
        }

    def labels(self) -> dict[int | str, Tensor]:
        """List the parameters.

        Returns:
            Name, or number where they have none, to parameter.
        """
        labels: dict[int | str, Tensor] = {}
        for group in self.param_groups:
            names = group.get("param_names") or range(len(labels), 1 << 62)
            labels |= dict(zip(names, group["params"], strict=False))
        return labels

    def state_dict(self) -> dict[str, Any]:
        """Save the state of the base optimiser, the anchors and the records.

        Returns:
            A dictionary of plain tensors, numbers and names.
        """
        self._flush()
        saved = super().state_dict()
        params = list(self.labels().values())
        saved["spd_anchors"] = {
            k: self._anchors[p] for k, p in enumerate(params) if p in self._anchors
        }
        saved["spd_records"] = {
            k: torch.as_tensor(self._records[p])
            for k, p in enumerate(params)
            if p in self._records
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; anchors take the type and device of parameters.

        Args:
            state_dict: of :meth:`state_dict`, for the same parameters.

        Raises:
            AnchorMismatchError: it has no anchors, or they have other shapes.
        """
        params = list(self.labels().values())
        saved = state_dict.get("spd_anchors")
        bad = (
            [k for k, a in saved.items() if not _fits(params, k, a)]
            if saved is not None
            else "no anchors"
        )
        if saved is None or bad:
            raise AnchorMismatchError(
                "the saved state has other anchors",
                where=f"anchors {bad}" if saved is not None else "argument state_dict",
                found=bad,
                expected=f"anchors of {len(params)} parameters in their shapes",
                todo="Load what the state_dict of an SPD on these parameters saved.",
            )
        own = ("spd_anchors", "spd_records")
        self._flush()
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in own})
        # torch puts new groups and states into this object alone
        self.base.__setstate__({"state": self.state, "param_groups": self.param_groups})
        self._share()
        self._anchors = {
            params[k]: None if a is None else a.detach().to(params[k], copy=True)
            for k, a in saved.items()
        }
        self._records = {
            params[k]: record.numpy().astype(np.float64)
            for k, record in state_dict["spd_records"].items()
        }

    def __getstate__(self) -> dict[str, Any]:
        self._flush()  # addresses do not survive a copy
        return dict(vars(self))


def _fits(params: list[Tensor], number: int, anchor: Tensor | None) -> bool:
    known = number < len(params)
    return known and (anchor is None or anchor.shape == params[number].shape)
