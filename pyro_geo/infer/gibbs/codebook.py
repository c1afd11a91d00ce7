"""Codebooks: particles with a prior weight each, and the complexity of ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.errors import (
    ConfigurationError,
    EmptyEnsembleError,
    LossRangeError,
    ShapeError,
)
from pyro_geo.infer.gibbs.seal import Origin, seal
from pyro_geo.ops.chunks import map_chunks

if TYPE_CHECKING:
    from pyro_geo.density import Target
    from pyro_geo.infer.gibbs.model import GibbsModel

__all__ = ["Codebook", "Losses", "Status", "check_loss_range"]

Status = Literal["finite_sample", "heuristic", "unverified"]


class Losses(NamedTuple):
    """Moments of a loss at each particle, in double precision.

    Attributes:
        mean: over the examples, `(particles,)`.
        square: mean of its square, `(particles,)`.
        n: number of examples.
    """

    mean: Tensor
    square: Tensor
    n: int


@dataclass(frozen=True)
class Codebook:
    r"""Particles made from data, with weights that stand for the prior.

    A random measure :math:`\hat P = \sum_i p_i \delta_{\theta_i}` is a *proper*
    codebook of a prior if :math:`E[\hat P(f) \mid D] \le \pi(f)` for all
    :math:`f \ge 0`. If :math:`E_D e^{A(\theta, D)} \le 1` at each parameter, then with
    probability :math:`1 - \delta` over data and sampler, for every :math:`\rho` on the
    particles at once,

    .. math:: \rho(A) \le K(\rho) + \log(1/\delta), \qquad
              K(\rho) = \sum_i \rho_i \log(\rho_i / p_i).

    So a certificate holds whether or not the sampler has converged. Proper codebooks
    are draws from the prior with `p = 1/N`, importance draws, the stages of an annealed
    sampler that no longer adapts, and mixtures of these. A weight may always be
    lowered, and a particle thus be dropped, but no particle may be moved.

    Attributes:
        q: positions, `(particles, dim)`.
        log_p: logarithms of the weights, `(particles,)`; minus infinity drops one.
        log_weights: logarithms of the weights in the Gibbs posterior, which sum to 1.
        source: index of the source of each particle, `(particles,)`.
        sources: names of the sources.
        model: the Gibbs model, which evaluates losses together with `target`.
        target: density of the model at the data that made the particles.
        parts: codebooks that this one is a mixture of; each evaluates its own losses.
        origin: of the particles, for those of a run.
        sealed: signature of the run over all of this; None by hand.
        heuristic: whether the particles are known to certify nothing.

    Example:
        >>> prior = Codebook(torch.randn(4, 2), torch.full((4,), 0.25).log())
        >>> float(prior.kl(prior.log_p)), round(float(prior.kl(0)), 4)
        (0.0, 1.3863)
    """

    q: Tensor
    log_p: Tensor
    log_weights: Tensor | None = None
    source: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    sources: tuple[str, ...] = ("codebook",)
    model: GibbsModel | None = None
    target: Target | None = None
    parts: tuple[Codebook, ...] = ()
    origin: Origin | None = None
    sealed: str | None = field(default=None, repr=False)
    heuristic: bool = False

    def __post_init__(self) -> None:
        if self.log_p.shape != (len(self.q),):
            raise ShapeError(
                "not one weight for each particle",
                where="argument log_p",
                found=tuple(self.log_p.shape),
                expected=f"({len(self.q)},)",
                todo="Pass the logarithm of each particle's weight.",
            )
        # not-a-number, and infinite prices too, drop a particle: that is always allowed
        log_p = self.log_p.double().nan_to_num(-math.inf, -math.inf, -math.inf)
        object.__setattr__(self, "log_p", log_p)
        if not bool((log_p > -math.inf).any()):
            raise EmptyEnsembleError(
                "no particle is left",
                where="codebook",
                found=f"{len(self.q)} particles, each of weight zero",
                expected="a particle of finite loss",
                todo="Check the loss at draws from the prior; use more particles.",
            )
        if len(self.source) != len(self.q):
            source = torch.zeros_like(log_p, dtype=torch.long)
            object.__setattr__(self, "source", source)

    @property
    def status(self) -> Status:
        """What a certificate may rest on.

        `"finite_sample"`, a proper codebook, is what a run has made and nobody has
        changed since; `"heuristic"` particles were moved by something else; one that
        was put together by hand is `"unverified"`.
        """
        if self.heuristic or any(part.status == "heuristic" for part in self.parts):
            return "heuristic"
        whole = self.sealed is not None and self.sealed == self._seal()
        whole = whole and all(part.status == "finite_sample" for part in self.parts)
        return "finite_sample" if whole else "unverified"

    def _seal(self) -> str:
        model = self.model
        own = [part.sealed for part in self.parts]
        return seal(
            self.q,
            self.log_p,
            self.log_weights,
            self.source,
            self.sources,
            own,
            None if model is None else (model.model, model.loss),
            None if self.target is None else repr(self.target.layout),
            self.origin,
        )

    def __len__(self) -> int:
        """Count the particles, dropped ones included."""
        return len(self.q)

    @property
    def alive(self) -> Tensor:
        """Which particles have a weight, boolean `(particles,)`."""
        return self.log_p > -math.inf

    def kl(self, rho: Tensor | int) -> Tensor:
        r"""Complexity of an ensemble in nats, :math:`\sum_i \rho_i \log(\rho_i / p_i)`.

        Args:
            rho: logarithms of its weights, `(*batch, particles)`, each row summing to
                1; or the index of a single particle.

        Returns:
            The complexity, `(*batch,)`; infinite where a dropped particle is used.
        """
        if isinstance(rho, int):
            return -self.log_p[rho]
        share = rho.exp()
        # 0 log 0 = 0, though the second factor is infinite or not a number there
        cost = torch.where(share > 0, share * (rho - self.log_p), 0.0)
        return cost.sum(-1)

    def retilted(self, cost: Tensor) -> Tensor:
        r"""The ensemble that weighs complexity and a cost best.

        .. math:: \rho_i \propto p_i e^{-c_i}

        Args:
            cost: nats of each particle, `(*batch, particles)`.

        Returns:
            Logarithms of its weights, same shape.
        """
        return (self.log_p - cost).log_softmax(-1)

    def losses(
        self,
        loss: Callable[..., Tensor],
        args: Any,
        targets: Any,
        loss_range: tuple[float, float] | None = None,
        *,
        clip: bool = False,
    ) -> Losses:
        """Evaluate a loss at every particle, as many particles at once as fit.

        Args:
            loss: `loss(prediction, *targets)`, one value for each example.
            args: arguments of the model, a tuple or one tensor.
            targets: what predictions are compared with, a tuple or one tensor.
            loss_range: smallest and largest value allowed; None allows all.
            clip: clamp values to the range instead of refusing them.

        Returns:
            Means over the examples; of a dropped particle, zero. A value outside the
            range, or not finite, is a :class:`~pyro_geo.errors.LossRangeError`.

        Raises:
            ConfigurationError: the codebook knows no model.
        """
        if self.parts:
            found = [
                p.losses(loss, args, targets, loss_range, clip=clip) for p in self.parts
            ]
            mean, square = (torch.cat(c) for c in list(zip(*found, strict=True))[:2])
            alive = self.alive
            return Losses(
                torch.where(alive, mean, 0.0),
                torch.where(alive, square, 0.0),
                found[0].n,
            )
        if self.model is None or self.target is None:
            raise ConfigurationError(
                "a codebook without a model cannot evaluate a loss",
                where="argument losses",
                found="None",
                expected="losses of every particle at every example",
                todo="Pass losses=(particles, n) to certify.",
            )
        # at the new data, in the precision of the run
        model = self.model.with_loss(loss)
        target = model.target(args, targets, dtype=self.target.dtype)
        low, high = loss_range or (-math.inf, math.inf)

        def moments(q: Tensor) -> dict[str, Tensor]:
            values = -target.pointwise_log_likelihood(q)["gibbs"].double()
            if clip:
                values = values.clamp(low, high)
            return {
                "mean": values.mean(1),
                "square": values.square().mean(1),
                "low": values.amin(1),
                "high": values.amax(1),
            }

        alive = self.alive
        found = map_chunks(moments, self.q[alive])
        check_loss_range(found["low"], found["high"], low, high)
        # dropped particles may lie where the loss cannot be evaluated; they count 0
        mean, square = found["mean"].new_zeros(2, len(self.q)).unbind()
        mean[alive], square[alive] = found["mean"], found["square"]
        n = target.pointwise_log_likelihood(self.q[:1])["gibbs"].shape[1]
        return Losses(mean, square, n)

    def losses_from(
        self,
        values: Tensor,
        loss_range: tuple[float, float] | None = None,
        *,
        clip: bool = False,
    ) -> Losses:
        """Average losses that are known already.

        Args:
            values: losses, `(particles, n)`.
            loss_range: smallest and largest value allowed; None allows all.
            clip: clamp values to the range instead of refusing them.

        Returns:
            Means over the examples; of a dropped particle, zero.

        Raises:
            ShapeError: not one row for each particle.
        """
        if values.dim() != 2 or len(values) != len(self.q):
            raise ShapeError(
                "not one row of losses for each particle",
                where="argument losses",
                found=tuple(values.shape),
                expected=f"({len(self.q)}, n)",
                todo="Pass the loss of every particle at every example.",
            )
        low, high = loss_range or (-math.inf, math.inf)
        values = torch.where(self.alive[:, None], values.double(), 0.0)
        if clip:
            values = values.clamp(low, high)
        rows = values[self.alive]  # what a dropped particle loses is no error
        check_loss_range(rows.amin(1), rows.amax(1), low, high)
        return Losses(values.mean(1), values.square().mean(1), values.shape[1])

    @staticmethod
    def pool(
        codebooks: Sequence[Codebook], weights: Sequence[float] | None = None
    ) -> Codebook:
        r"""Mix codebooks that were planned before the data were seen.

        The mixture is proper if each of them is.

        .. math:: \hat P = \sum_j c_j \hat P_j, \qquad \sum_j c_j \le 1

        Args:
            codebooks: those of several temperatures, seeds, widths of a network or
                scales of the prior.
            weights: the :math:`c_j`, each at least 0; 1/J each if None.

        Returns:
            The mixture, without weights of a Gibbs posterior.
        """
        count = len(codebooks)
        shares = weights if weights is not None else [1 / max(count, 1)] * count
        low = min(shares, default=0.0)
        good = count > 0 and len(shares) == count and low >= 0
        found = f"{count} codebooks with weights {list(shares)}"
        expected = "a weight of at least 0 for each codebook, their sum at most 1"
        # a sum below 1 wastes a part of the prior, one above 1 certifies nothing
        check(good and sum(shares) <= 1 + 1e-12, "weights", found, expected)
        # each part is divided by its share of the prior: log p of the mixture is that
        # of the part plus log c; sources are numbered through all codebooks
        source, names = [], []
        for book in codebooks:
            source.append(book.source + len(names))
            names += book.sources
        logs = [math.log(share) if share > 0 else -math.inf for share in shares]
        mixed = Codebook(
            torch.cat([book.q for book in codebooks]),
            torch.cat([b.log_p + log for b, log in zip(codebooks, logs, strict=True)]),
            source=torch.cat(source),
            sources=tuple(names),
            parts=tuple(codebooks),
        )
        return signed(mixed)


def signed(codebook: Codebook) -> Codebook:
    """Seal a codebook that a run has made."""
    return replace(codebook, sealed=codebook._seal())


def check_loss_range(lows: Tensor, highs: Tensor, low: float, high: float) -> None:
    """Refuse losses outside the range that a bound assumes.

    Args:
        lows: smallest loss of each particle, `(particles,)`.
        highs: largest loss of each particle, `(particles,)`.
        low: lower end of the range.
        high: upper end of the range.

    Raises:
        LossRangeError: a loss is outside, or not finite.
    """
    good = (lows >= low) & (highs <= high) & lows.isfinite() & highs.isfinite()
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0])
    raise LossRangeError(
        "a loss is outside its range",
        where=f"particle {row} of those alive, {int((~good).sum())} in all",
        found=f"from {float(lows[row]):.6g} to {float(highs[row]):.6g}",
        expected=f"values in [{low}, {high}]",
        todo="Bound the loss itself, or pass clip=True to certify the clipped one.",
    )
