"""Values of discrete latents, drawn together or the likeliest, given all the rest.

To sum a discrete site out and to pick one of its values is one operation here. Its
value is the sum, its derivative is one for the value picked and zero for the others. By
the chain rule the derivative of the whole contraction marks the values that all sites
have together, in every plate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pyro.ops.rings import LogRing
from torch import Tensor

from pyro_geo._compat.pyro import axis_names, name_axes
from pyro_geo.density._log_sum import einsum, log_sum_exp

__all__ = ["PickingRing"]


class PickingRing(LogRing):
    """Sums and maxima of logarithms whose derivatives mark one term each.

    Args:
        sizes: of plates, by their symbols.
        plates: symbols of all plates.
        uniforms: independent numbers on (0, 1), at least one for each entry of each
            discrete site, `(n,)`; None to pick the likeliest values.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        plates: frozenset[str],
        uniforms: Tensor | None,
    ) -> None:
        super().__init__(cache={}, dim_to_size=sizes)
        self.plates = plates
        self.uniforms = uniforms
        self._used = 0

    def sumproduct(self, terms: Iterable[Tensor], dims: Iterable[str]) -> Tensor:
        """Multiply terms and sum discrete sites out, one after the other.

        Args:
            terms: logarithms with named axes.
            dims: symbols of the sites.

        Returns:
            The logarithm, with the axes that are left.
        """
        left, pending = list(terms), set(dims)
        while pending:
            # greedy: first the site whose removal makes the smallest product
            dim = min(sorted(pending), key=lambda dim: _size_without(left, dim))
            pending.remove(dim)
            concerned = [term for term in left if dim in axis_names(term)]
            left = [term for term in left if dim not in axis_names(term)]
            if concerned:
                left.append(self._pick(_product(concerned), dim))
        return _product(left)

    def _pick(self, term: Tensor, dim: str) -> Tensor:
        names = axis_names(term)
        x = term.movedim(names.index(dim), -1)
        names = names.replace(dim, "")
        fixed = x.detach()
        if self.uniforms is None:
            index = fixed.argmax(-1)
            total = fixed.amax(-1)
        else:
            index = self._draw(fixed, names)
            total = log_sum_exp(fixed, (-1,))
        picked = x.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        # the total as value; as derivative, that of the term picked
        shift = torch.where(picked.isfinite(), total - picked, 0.0).detach()
        return name_axes(picked + shift, names)

    def _draw(self, x: Tensor, names: str) -> Tensor:
        """Draw an index of the last axis, each with probability `exp(x)`."""
        cdf = (x - x.amax(-1, keepdim=True)).exp().cumsum(-1)
        last = cdf[..., -1]
        # Values of the sites that are summed out later may share one number, because
        # only one of them will be picked. Entries of plates need one each.
        sizes = zip(last.shape, names, strict=True)
        shape = [n if symbol in self.plates else 1 for n, symbol in sizes]
        count = torch.Size(shape).numel()
        assert self.uniforms is not None
        u = self.uniforms[self._used : self._used + count].reshape(shape)
        self._used += count
        # strictly below the last entry, also after rounding: an index of probability
        # zero is never drawn
        bound = torch.minimum(u * last, last * (1 - torch.finfo(last.dtype).eps))
        return (cdf <= bound.unsqueeze(-1)).sum(-1).clamp(max=x.shape[-1] - 1)


def _size_without(terms: Sequence[Tensor], dim: str) -> int:
    """Count the entries of the product of all terms with an axis, without this axis."""
    sizes: dict[str, int] = {}
    for term in terms:
        names = axis_names(term)
        if dim in names:
            sizes.update(zip(names, term.shape, strict=True))
    return torch.Size([n for name, n in sizes.items() if name != dim]).numel()


def _product(terms: Sequence[Tensor]) -> Tensor:
    """Add logarithms, axes by their names."""
    inputs = [axis_names(term) for term in terms]
    output = "".join(sorted(set("".join(inputs))))
    product: Any = einsum(",".join(inputs) + "->" + output, *terms)
    return name_axes(product, output)
