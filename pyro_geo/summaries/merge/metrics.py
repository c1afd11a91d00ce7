r"""What each task asks of a merged network: measured once, used in many merges."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number, check_shape
from pyro_geo.errors import CheckpointError, LayoutMismatchError
from pyro_geo.geometry.likelihoods import likelihood_named
from pyro_geo.geometry.projection import Forward
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.io.files import replace_file
from pyro_geo.summaries.merge import _averages, _solve
from pyro_geo.summaries.merge._networks import Network, read_networks
from pyro_geo.summaries.merge._tasks import StateDict, read_tasks

__all__ = ["TaskMetric", "measure"]

Measured = Callable[[list[StateDict]], Tensor]
_FORMAT = "pyro_geo task metric 1"


@dataclass(frozen=True)
class TaskMetric:
    r"""The curvature of one task on a subspace, and where the task stands.

    The task expects a merged network at coordinates `z` to cost it

    .. math:: \tfrac12 \bigl[(z - z_k)^\top A_k (z - z_k)
              - 2 (z - z_k)^\top c_k + e_k\bigr]

    nats per input, with `c` and `e` from the part of the task that the subspace
    leaves out. Made by :func:`measure`; plain tensors, without data.

    Attributes:
        matrix: `A`, `(dim, dim)`, or its diagonal, `(dim,)`.
        coords: `z_k`, `(dim,)`.
        cross: `c`, `(dim,)`.
        residual: `e`.
        kept: fraction of the squared difference from the base inside the subspace.
        count: data that the task's posterior stands for.
        per: `"mean"` for curvature of a mean loss, `"sum"` for a precision, which is
            a sum over data. Metrics of both kinds are never merged together.
        kind: how it was averaged.
        likelihood: of the outputs.
        end: where a path led to, `(dim,)`.
        signature: of the subspace, `(dim,)`.
    """

    matrix: Tensor
    coords: Tensor
    cross: Tensor
    residual: float
    kept: float
    count: float
    per: str
    kind: str
    likelihood: str
    end: Tensor
    signature: Tensor

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.coords)

    @property
    def trace(self) -> float:
        """Sum of the curvatures over the subspace."""
        return _solve.trace(self.matrix)

    def predicted_kl(self, z: Tensor) -> float:
        """Predict what a merged network costs this task, without data.

        Args:
            z: coordinates of the merged network, `(dim,)`.

        Returns:
            Predicted KL divergence from the task's model, in nats per input.
        """
        check_shape("z", z.shape, (self.dim,))
        apart = z.to(self.coords) - self.coords
        inside = _solve.quadratic(self.matrix, apart)
        return 0.5 * (inside - 2 * float(apart @ self.cross) + self.residual)

    def check_subspace(self, subspace: Subspace) -> None:
        """Refuse a subspace that this metric was not measured in.

        Args:
            subspace: asked for.

        Raises:
            LayoutMismatchError: it is another one.
        """
        if self.dim == subspace.dim:
            here = subspace.signature().to(self.signature)
            if torch.allclose(here, self.signature, rtol=1e-5, atol=1e-6):
                return
        raise LayoutMismatchError(
            "a metric belongs to another subspace",
            found=f"a metric in {self.dim} coordinates",
            expected=f"one measured in {subspace!r}",
            todo="Measure again, or build the subspace from the same models.",
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the metric to a file, whole or not at all.

        Args:
            path: of the file.
        """
        parts = {
            field.name: _stored(getattr(self, field.name)) for field in fields(self)
        }
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "digest": _digest(parts), **parts}, buffer)
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskMetric:
        """Read a file; no code in it is run.

        Args:
            path: of the file.

        Returns:
            The metric, its tensors in main memory.

        Raises:
            CheckpointError: the file is missing, cut off, changed, or something else.
        """
        found = "no archive, or one that was cut off"
        try:
            content = io.BytesIO(Path(path).read_bytes())
            # other content would go to a reader of old files, which fails anyhow
            if zipfile.is_zipfile(content):
                content.seek(0)
                parts = torch.load(content, map_location="cpu", weights_only=True)
                found = "another format"
                if isinstance(parts, dict) and parts.pop("format", "") == _FORMAT:
                    if parts.pop("digest", "") == _digest(parts):
                        return cls(**parts)
                    found = "numbers that were changed"
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            found = f"{type(error).__name__}: {str(error)[:80]}".splitlines()[0]
        raise CheckpointError(
            "a task metric cannot be read",
            where=f"file {os.fspath(path)!r}",
            found=found,
            expected="a file written by `TaskMetric.save`",
            todo="Measure the task again and save it.",
        )


def measure(
    forward: Forward,
    params: StateDict,
    inputs: Tensor,
    subspace: Subspace,
    *,
    kind: Literal["path", "point", "posterior"] = "path",
    likelihood: str = "categorical",
    variance: float = 1.0,
    towards: Tensor | StateDict | None = None,
    nodes: int = 2,
    num_draws: int = 4,
    count: float | None = None,
    prior_precision: float = 1.0,
    seed: int = 0,
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> TaskMetric:
    r"""Measure the curvature of one task's loss on a subspace, without labels.

    .. math:: A_k = B^\top G_k B, \qquad G = E_x[J^\top \Lambda J]

    - `"path"`: averaged along the line to where the merged network will be, which
      makes the quadratic form the loss there and not only near the task's optimum.
      It is the best predictor by far, and the default.
    - `"posterior"`: averaged over draws of the task's own posterior on the subspace.
    - `"point"`: at the task's own parameters. A confident classifier is flat there,
      so that this understates what leaving them costs.

    Args:
        forward: function of parameters and inputs to outputs, `(n, outputs)`.
        params: of the task, all that `forward` needs.
        inputs: `(n, ...)`; one or two hundred suffice.
        subspace: of :func:`~pyro_geo.summaries.merge.build_subspace`.
        kind: as above.
        likelihood: `"categorical"` or `"bernoulli"` for logits, `"gaussian"` for
            means.
        variance: of the noise, for `"gaussian"`.
        towards: end of the path: coordinates, or parameters; the center of the
            subspace, the mean of all tasks, by default.
        nodes: of the path.
        num_draws: of the posterior, an even number.
        count: data that the task was trained on; the number of inputs by default.
        prior_precision: of the posterior, in each direction.
        seed: of its draws.
        chunk_size: directions at once; as many as fit if None.
        batch_size: inputs at once; all if None.

    Returns:
        The metric. Parameters or outputs that are not finite are a
        :class:`~pyro_geo.errors.NonFiniteParameterError`.

    References:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order
        gradient descent; Martens (2020), New insights and perspectives on the
        natural gradient method.

    Example:
        >>> from pyro_geo.summaries.merge import build_subspace
        >>> base = {"w": torch.zeros(3, 2)}
        >>> models = {"a": {"w": torch.eye(3, 2)}, "b": {"w": -torch.eye(3, 2)}}
        >>> subspace = build_subspace(base, models, "span")
        >>> x = torch.randn(50, 3)
        >>> a = measure(lambda p, x: x @ p["w"], models["a"], x, subspace)
        >>> a.dim, a.predicted_kl(a.coords)
        (1, 0.0)
    """
    check_choice("kind", kind, ("path", "point", "posterior"))
    check_count("nodes", nodes)
    check_count("num_draws", num_draws, 2)
    check(num_draws % 2 == 0, "num_draws", num_draws, "an even number")
    check_number("count", count, strict=True)
    check_number("prior_precision", prior_precision, strict=True)
    tasks = read_tasks(
        subspace.origin,
        {"measured": {**params}},
        shared=lambda name: name in subspace.origin,
    )
    family = likelihood_named(likelihood, variance)
    (network,) = read_networks(
        tasks,
        forward,
        [inputs],
        family,
        subspace.center,
        chunk_size=chunk_size,
        batch_size=batch_size,
    ).values()
    end = _end(subspace, towards)
    number = float(len(inputs) if count is None else count)
    matrix: Measured
    if kind == "posterior":
        matrix = functools.partial(
            _averages.posterior_metric,
            network,
            subspace,
            count=number,
            prior_precision=prior_precision,
            num_draws=num_draws,
            seed=seed,
        )
    elif kind == "path":
        there = subspace.point(end)
        matrix = functools.partial(
            _averages.path_metric, network, there, subspace, nodes=nodes
        )
    else:
        matrix = functools.partial(network.metric, network.merged, subspace)
    return task_metric(
        network, subspace, matrix, count=number, kind=kind, family=family.name, end=end
    )


def task_metric(
    network: Network,
    subspace: Subspace,
    matrix: Measured,
    *,
    count: float,
    kind: str,
    family: str,
    end: Tensor,
) -> TaskMetric:
    """Place a task in a subspace and measure it there, its residual included.

    Args:
        network: of the task.
        subspace: to measure in.
        matrix: function of further directions to the matrix with them as columns.
        count: of data.
        kind: of the average.
        family: name of the likelihood.
        end: of a path.

    Returns:
        The metric.
    """
    apart = subspace.difference(network.merged)
    coords = subspace.project(apart)
    inside = subspace.lift(coords)
    rest = {name: x - inside[name] for name, x in apart.items()}
    total, left = (
        sum(float(x.square().sum()) for x in side.values()) for side in (apart, rest)
    )
    outside = left > 1e-20 * total  # else what is left is rounding
    whole = matrix([rest] if outside else [])
    dim = subspace.dim
    cross = whole[:dim, dim] if outside else torch.zeros_like(coords)
    return TaskMetric(
        whole[:dim, :dim],
        coords,
        cross,
        float(whole[dim, dim]) if outside else 0.0,
        1 - left / total if total else 1.0,
        count,
        "mean",
        kind,
        family,
        end,
        subspace.signature(),
    )


def _end(subspace: Subspace, towards: Tensor | StateDict | None) -> Tensor:
    if towards is None:
        return subspace.center
    if isinstance(towards, Mapping):
        return subspace.coords(towards)
    check_shape("towards", towards.shape, (subspace.dim,))
    return towards.detach().to(subspace.center)


def _stored(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _digest(parts: Mapping[str, Any]) -> str:
    """Fingerprint of names and numbers, against files that were changed."""
    found = hashlib.sha256()
    for name, value in sorted(parts.items()):
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(str((tuple(value.shape), value.dtype)).encode())
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()
