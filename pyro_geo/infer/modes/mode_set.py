r"""The modes of a density: where they are, what they weigh, what was searched.

Near a mode :math:`\hat q_k` with the Hessian :math:`H_k` of minus the log-density,
its mass is about

.. math:: \log m_k \approx \log p(\hat q_k) + \tfrac{d}{2} \log 2\pi
          - \tfrac12 \log \det H_k, \qquad w_k = m_k / \textstyle\sum_j m_j .

Draws from a Student density of that centre and shape correct it where they can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from pyro_geo._showing import notebook
from pyro_geo.checks import check, check_choice, check_count, check_number, check_shape
from pyro_geo.density import Layout
from pyro_geo.geometry.laplace import Laplace
from pyro_geo.geometry.matrices import Spectral
from pyro_geo.infer.modes import _tables
from pyro_geo.infer.modes._basins import spectral
from pyro_geo.infer.modes._shares import Strategy, share_chains
from pyro_geo.ops.chunks import map_chunks

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo._compat.arviz import ArvizData

__all__ = ["ModeSet"]

Space = Literal["constrained", "unconstrained"]

_REACH = 5.0  # Laplace standard deviations beyond a typical draw that a mode claims
_JITTER = 0.5  # standard deviations, for all chains of a mode but the first


@dataclass(frozen=True, eq=False, repr=False)
class ModeSet:
    """Modes of a posterior, the heaviest first, and how they were found.

    All of it is plain tensors, so it pickles. Pass it to
    :class:`~pyro_geo.infer.MCMC` as `initial_params`, or one mode of it to a guide by
    :func:`~pyro_geo.infer.init_to_mode`.

    Attributes:
        q: modes in unconstrained space, `(modes, dim)`.
        log_prob: log-density there, `(modes,)` as are all tensors below.
        log_masses: logarithm of the mass around each: the Laplace approximation,
            corrected by draws where these can be trusted. Symmetric copies share
            their mean.
        log_laplace: logarithm of the mass by the Laplace approximation alone.
        pareto_k: tail of the weights of these draws; the correction is uncertain
            from 0.7 on and not used from 1 on. NaN where none was made.
        laplace: the normal density at each mode, with leading axis `modes`.
        counts: searches that ended at each mode; 0 for a copy that a symmetry added.
        converged: whether the gradient is zero there, and nothing leads further up.
        flat: directions without curvature, along which a mode is a ridge.
        copies: the mode of which each is a symmetric copy; its own number for others.
        symmetries: in words, each verified on the density.
        layout: of the sites in `q`.
        searched: what was searched, name to number or text.
        history: best log-density that each instance of the first cross-entropy search
            has seen so far, `(iterations, instances)`.
        notes: what to know before the weights are used.
        dtype: floating type of the values that are handed out.
    """

    q: Tensor
    log_prob: Tensor
    log_masses: Tensor
    log_laplace: Tensor
    pareto_k: Tensor
    laplace: Laplace
    counts: Tensor
    converged: Tensor
    flat: Tensor
    copies: Tensor
    symmetries: tuple[str, ...]
    layout: Layout
    searched: Mapping[str, Any]
    history: Tensor
    notes: tuple[str, ...]
    dtype: torch.dtype

    citations: ClassVar[tuple[str, ...]] = ("decent_cem",)

    def __len__(self) -> int:
        """Number of modes."""
        return len(self.q)

    def __repr__(self) -> str:
        """Count the modes, and those that are no copies, and show the weights."""
        own = int((self.copies == torch.arange(len(self))).sum())
        shown = ", ".join(f"{w:.3f}" for w in self.weights[:6].tolist())
        more = ", ..." if len(self) > 6 else ""
        kinds = "" if own == len(self) else f" ({own} up to symmetry)"
        modes = "1 mode" if len(self) == 1 else f"{len(self)} modes"
        return f"ModeSet({modes}{kinds}, weights {shown}{more})"

    def _repr_html_(self) -> str:
        """Show the table of modes in a notebook."""
        return notebook(repr(self), self.summary(), self.notes)

    # -- weights ----------------------------------------------------------------------

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the modes' shares of all mass found, `(modes,)`."""
        return self.log_masses.log_softmax(0)

    @property
    def weights(self) -> Tensor:
        """Shares of all mass found, `(modes,)`; a mode that was missed has none."""
        return self.log_weights.exp()

    def assign(self, q: Tensor, reach: float = _REACH) -> Tensor:
        r"""Say in which mode positions are.

        That of the largest weighted Laplace density,
        :math:`w_k N(q; \hat q_k, H_k^{-1})`, among the modes that reach so far:
        :math:`|q - \hat q_k|_{H_k} \le \sqrt d + r`.

        Args:
            q: unconstrained positions, `(..., dim)`.
            reach: `r`; a draw of the Laplace density itself is beyond 5 with a
                probability below a millionth, and one of a long tail is not.

        Returns:
            Indices of modes, `(...)`; -1 where none reaches.

        Example:
            >>> from pyro_geo import Target
            >>> from pyro_geo.infer import find_modes
            >>> well = lambda q: 8 * ((q * q - 1) ** 2).sum()
            >>> modes = find_modes(Target.from_potential(well, 1))
            >>> modes.values(0)["q"].abs().round()
            tensor([1.])
            >>> modes.assign(torch.stack([modes.q[1], torch.tensor([40.0])])).tolist()
            [1, -1]
        """
        check_number("reach", reach)
        dim = self.layout.dim
        check_shape("q", q.shape, f"(..., {dim})", q.shape[-1:] == (dim,))
        rows = q.reshape(-1, dim).to(self.q)

        def of_chunk(x: Tensor) -> Tensor:
            length = self.laplace.precision.norm(x[:, None] - self.q)
            score = self.log_weights - 0.5 * self.laplace.log_det() - 0.5 * length**2
            near = length <= dim**0.5 + reach
            best = torch.where(near, score, -torch.inf).argmax(-1)
            return torch.where(near.any(-1), best, -1)

        return map_chunks(of_chunk, rows).reshape(q.shape[:-1])

    # -- starts -----------------------------------------------------------------------

    def values(self, k: int | None = None) -> dict[str, Tensor]:
        """Values of the sites, as the model sees them.

        Args:
            k: of one mode; of all, with a leading axis, if None.

        Returns:
            Site to `(*shape,)` or `(modes, *shape)`.
        """
        return self._as_sites(self.q if k is None else self.q[self._index(k)])

    def chain_modes(self, num_chains: int, strategy: Strategy = "weighted") -> Tensor:
        """Share chains out among the modes.

        `"weighted"` goes by weight and gives each mode at least one where there are
        as many chains as modes, else one to each of the heaviest; `"spread"` gives all
        modes the same number, as far as it goes; `"best"` gives all to the heaviest.

        Args:
            num_chains: how many.
            strategy: how.

        Returns:
            The mode of each chain, ascending, `(num_chains,)`.
        """
        check_count("num_chains", num_chains)
        return share_chains(self.weights, num_chains, strategy)

    def initial_params(
        self,
        num_chains: int,
        strategy: Strategy = "weighted",
        *,
        seed: int = 0,
        space: Space = "unconstrained",
        jitter: float = _JITTER,
    ) -> dict[str, Tensor]:
        """Starts of chains, for `initial_params` of Pyro's `MCMC` and of ours.

        The first chain of a mode starts on it. Others start at draws of its Laplace
        density that are pulled towards the mode, because R-hat needs starts that
        differ.

        Args:
            num_chains: how many.
            strategy: see :meth:`chain_modes`.
            seed: of the draws.
            space: of the values; Pyro's `MCMC` takes unconstrained ones.
            jitter: distance of the draws, in standard deviations of the Laplace
                density; 0 starts all chains of a mode at one point.

        Returns:
            Site to `(num_chains, *shape)`.
        """
        check_choice("space", space, ("constrained", "unconstrained"))
        check_number("jitter", jitter)
        chosen = self.chain_modes(num_chains, strategy)
        generator = torch.Generator().manual_seed(seed)
        shape = (num_chains, self.layout.dim)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        # chains of one mode stand together: the first differs from the one before
        again = torch.zeros_like(chosen, dtype=torch.bool)
        again[1:] = chosen[1:] == chosen[:-1]
        noise = jitter * noise.to(self.q) * again.unsqueeze(-1).to(self.q)
        precision = spectral(self.laplace)
        rows = Spectral(precision.values[chosen], precision.vectors[chosen])
        q = self.q[chosen] + rows.sample_inverse(noise)
        if space == "constrained":
            return self._as_sites(q)
        return {name: x.to(self.dtype) for name, x in self.layout.unflatten(q).items()}

    # -- reports ----------------------------------------------------------------------

    def summary(self) -> pd.DataFrame:
        """Tabulate the modes: weights, counts, what each is a copy of, values."""
        return _tables.summary(self)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page of HTML: the table of modes, what was searched, the notes.

        Args:
            path: of the file.

        Returns:
            The path.
        """
        return _tables.write(self, path)

    def to_arviz(self) -> ArvizData:
        """Put the modes into ArviZ's container, a group `modes` with an axis `mode`.

        They are no draws, so there is no group `posterior`.

        Returns:
            An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x.
        """
        return _tables.to_arviz(self)

    # -- inside -----------------------------------------------------------------------

    def _index(self, k: int) -> int:
        good = isinstance(k, int) and -len(self) <= k < len(self)
        check(good, "k", repr(k), f"the number of a mode, 0 to {len(self) - 1}")
        return k

    def _as_sites(self, q: Tensor) -> dict[str, Tensor]:
        return {name: x.to(self.dtype) for name, x in self.layout.constrain(q).items()}
