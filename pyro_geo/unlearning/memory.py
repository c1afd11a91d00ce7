"""The memories of optimisers as positive-definite matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyro_geo.geometry.kronecker import Block
from pyro_geo.unlearning._finding import buffers_of

__all__ = ["memory_of"]


def memory_of(optimizer: Any, names: Iterable[str] | None = None) -> Block:
    r"""Read the curvature that an optimiser has gathered.

    ==================== ===========================================================
    optimiser            memory
    ==================== ===========================================================
    EigenONS             :math:`\delta I + U \operatorname{diag}(s) U^\top`, one block
    SOAP, Shampoo        :math:`L \otimes R / \operatorname{tr} R` of each parameter
    Adam, AdamW, NAdam,  diagonal, `exp_avg_sq`
    RAdam, ClippedAdam
    Adagrad, RMSprop     diagonal, `sum` and `square_avg`
    ==================== ===========================================================

    These are statistics of gradients, before the root and the bias correction that an
    optimiser puts on them. Pyro's wrappers and learning-rate schedulers are looked
    through. Read before the first step, a memory is what the optimiser starts with. It
    may be singular: :func:`~pyro_geo.geometry.spectra.floored` makes it definite.

    Args:
        optimizer: the optimiser, after any number of steps. One that keeps none of
            these is an :class:`~pyro_geo.errors.UnsupportedOptimizerError`.
        names: of the parameters, in their order; if None those of the optimiser or of
            Pyro's parameter store, or numbers.

    Returns:
        One block for each parameter, in their order, in double precision. A buffer that
        is not finite is a :class:`~pyro_geo.errors.NonFiniteStateError` that names it.

    References:
        Gupta, Koren and Singer (2018), Shampoo: preconditioned stochastic tensor
        optimization, arXiv 1802.09568. Vyas et al. (2024), SOAP: improving and
        stabilizing Shampoo using Adam, arXiv 2409.11321. Morwani et al. (2024), A new
        perspective on Shampoo's preconditioner, arXiv 2406.17748.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.Adagrad([weight])
        >>> weight.grad = torch.tensor([1.0, 2.0])
        >>> optimizer.step()
        >>> memory_of(optimizer, ["weight"]).parts["weight"].dense().diagonal()
        tensor([1., 4.], dtype=torch.float64)
    """
    return Block({one.name: one.matrix() for one in buffers_of(optimizer, names)})
