r"""Values of the states where a plan ends: what lies behind the horizon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number, check_shape

__all__ = ["GPTDTerminal", "TerminalValue"]

TerminalValue = Callable[[Tensor], Tensor]
"""A function of states, `(K, n)`: their values, larger being better, `(K,)`."""


class GPTDTerminal:
    r"""Values of end states by a Gaussian process of temporal differences.

    .. math:: V(s) = E f(x) - w \sqrt{\mathrm{var} f(x)}, \qquad
        V(s) = \max_a E f(s, a) - w \sqrt{\mathrm{var} f(s, a)}

    The value models of :mod:`pyro_geo.gp` know values under the policy that they have
    seen, so a plan that ends in them is at least as good as the horizon followed by
    that policy. A positive width keeps plans away from states that the model has not
    seen (derived).

    Args:
        model: :class:`~pyro_geo.gp.ExactGPTD`, :class:`~pyro_geo.gp.SparseGPTD`,
            :class:`~pyro_geo.gp.VariationalGPTD` or :class:`~pyro_geo.gp.OnlineGPTD`,
            fitted; one process, no batch.
        nodes: columns that describe a state, `(K, n)` to `(K, D)`; left out, the state.
        actions: where nodes are states with actions: those to choose from, `(A, m)`,
            joined behind the columns of the state.
        width: of the lower bound, in standard deviations.

    Example:
        >>> from pyro_geo.gp import ExactGPTD, Transitions
        >>> x = torch.linspace(0, 1, 11)[:, None]
        >>> gp = ExactGPTD(Transitions(x[:-1], x[1:], torch.ones(10), 0.9)).fit()
        >>> GPTDTerminal(gp)(x[:2]).round()
        tensor([10., 10.])
    """

    def __init__(
        self,
        model: Any,
        *,
        nodes: Callable[[Tensor], Tensor] | None = None,
        actions: Tensor | None = None,
        width: float = 0.0,
    ) -> None:
        good = callable(getattr(model, "value", None)) and hasattr(model, "transitions")
        check(good, "model", type(model).__name__, "a value model of pyro_geo.gp")
        check_number("width", width)
        if actions is not None:
            good = actions.dim() == 2 and len(actions) > 0
            check_shape("actions", actions.shape, "(A, m)", good)
        single = not len(model.transitions.batch_shape)
        check(single, "model", "a batch of processes", "one process")
        self.model, self.nodes, self.actions, self.width = model, nodes, actions, width

    def __call__(self, s: Tensor) -> Tensor:
        """Give values.

        Args:
            s: states, `(K, n)`.

        Returns:
            Values, `(K,)`.
        """
        import gpytorch

        x = s if self.nodes is None else self.nodes(s)
        count = 1
        if self.actions is not None:
            count = len(self.actions)
            wide = x[:, None].expand(-1, count, -1)
            own = self.actions.to(x).expand(len(x), -1, -1)
            x = torch.cat([wide, own], -1).flatten(0, 1)
        skip = gpytorch.settings.skip_posterior_variances(self.width == 0)
        with torch.no_grad(), skip:
            found = self.model.value(x)
            value = found.mean
            if self.width > 0:
                covariance = found.lazy_covariance_matrix
                variance = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0)
                value = value - self.width * variance.sqrt()
        return value.reshape(-1, count).amax(-1).to(s)
