r"""The generalised Gauss-Newton matrix of a network, projected on a subspace.

.. math:: A = B^\top G B, \qquad
          G = \frac{1}{N} \sum_n J_n^\top \Lambda_n J_n

by derivatives in forward mode along the columns of `B`: nothing of the size of the
parameters squared is formed, and there is no backward pass. `A` is symmetric and
positive semidefinite by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import jvp, vmap

from pyro_geo._compat.torch import load_forward_mode
from pyro_geo.checks import check, check_count
from pyro_geo.geometry.likelihoods import Likelihood
from pyro_geo.geometry.subspace import Subspace

__all__ = ["Forward", "input_batches", "project_ggn", "push_forward"]

StateDict = Mapping[str, Tensor]
Forward = Callable[[dict[str, Tensor], Tensor], Tensor]


def push_forward(
    forward: Forward,
    params: StateDict,
    inputs: Tensor,
    subspace: Subspace | None,
    *,
    directions: Sequence[StateDict] = (),
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Push the columns of a subspace through a network: :math:`J B`.

    Args:
        forward: function of parameters and inputs to outputs, `(n, outputs)`.
        params: where, name to tensor.
        inputs: `(n, ...)`.
        subspace: whose columns; None for no columns.
        directions: further differences of parameters, name to tensor.
        chunk_size: columns at once.

    Returns:
        Outputs, `(n, outputs)`, and their derivatives,
        `(dim + len(directions), n, outputs)`.
    """
    load_forward_mode()
    point = dict(params)
    dim = 0 if subspace is None else subspace.dim

    def push(rows: Mapping[str, Tensor]) -> Tensor:
        names = tuple(rows)
        here = tuple(point[name] for name in names)

        # only what the columns touch is a variable: earlier layers have no tangents
        def part(*values: Tensor) -> Tensor:
            return forward({**point, **dict(zip(names, values, strict=True))}, inputs)

        def one(*tangents: Tensor) -> Tensor:
            return jvp(part, here, tangents)[1]

        tangents = tuple(rows[name].to(point[name]) for name in names)
        return vmap(one)(*tangents)

    with torch.no_grad():
        outputs = forward(point, inputs)
        result = outputs.new_empty(dim + len(directions), *outputs.shape)
        for place, rows in subspace.batches(chunk_size) if subspace else ():
            result[place] = push(rows)
        for number, direction in enumerate(directions, dim):
            rows = {name: x[None] for name, x in direction.items() if name in point}
            result[number] = push(rows)[0]
    return outputs, result


def project_ggn(
    forward: Forward,
    params: StateDict,
    inputs: Tensor,
    subspace: Subspace | None,
    *,
    likelihood: Likelihood,
    directions: Sequence[StateDict] = (),
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Project the Gauss-Newton matrix of a mean loss on a subspace.

    Args:
        forward: function of parameters and inputs to outputs, `(n, outputs)`.
        params: where, name to tensor.
        inputs: `(n, ...)`; there are no labels in this matrix.
        subspace: whose columns; None for no columns.
        likelihood: of the outputs.
        directions: further differences of parameters, as columns behind the others.
        chunk_size: columns at once.
        batch_size: inputs at once.

    Returns:
        The matrix, `(dim + len(directions), ...)` on both axes.

    References:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order
        gradient descent.

    Example:
        >>> from pyro_geo.geometry.likelihoods import Gaussian
        >>> from pyro_geo.geometry.subspace import IdentityBlock
        >>> w = {"w": torch.zeros(2, 1)}
        >>> subspace = Subspace(w, [IdentityBlock("w", w["w"].shape)])
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> project_ggn(lambda p, x: x @ p["w"], w, x, subspace, likelihood=Gaussian())
        tensor([[1., 1.],
                [1., 2.]])
    """
    total: Tensor | None = None
    for batch in input_batches(inputs, batch_size):
        outputs, rows = push_forward(
            forward,
            params,
            batch,
            subspace,
            directions=directions,
            chunk_size=chunk_size,
        )
        root = likelihood.root(outputs, rows).flatten(1)
        part = root @ root.T
        total = part if total is None else total + part
    assert total is not None
    return total / len(inputs)


def input_batches(inputs: Tensor, batch_size: int | None) -> Iterator[Tensor]:
    """Split inputs along their first axis.

    Args:
        inputs: `(n, ...)`, at least one.
        batch_size: of the parts; None for all at once.

    Yields:
        The parts.
    """
    check(len(inputs) > 0, "inputs", "none", "at least one input")
    check_count("batch_size", batch_size)
    yield from inputs.split(batch_size or len(inputs))
