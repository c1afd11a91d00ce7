"""Random numbers of a run: addressed by chain and block, or drawn in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_geo.ops.random import substream

__all__ = ["BlockNoise", "Noise", "SequentialNoise"]

_WORD = (1 << 64) - 1


class Noise:
    """Random numbers addressed by (seed, chain, block).

    Each chain has a Philox stream of its own, and each block a far-away part of it,
    so no random state needs saving and the way chains are grouped or spread over
    processes changes nothing.

    Args:
        seed: any integer; only its lowest 64 bits count.
        region: streams of different regions have nothing in common.

    References:
        Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.

    Example:
        >>> one = Noise(7).block([0, 1], block=3).normal(2)
        >>> two = Noise(7).block([1], block=3).normal(2)
        >>> bool((one[1] == two[0]).all())
        True
    """

    def __init__(self, seed: int, region: int = 0) -> None:
        self.seed = int(seed) & _WORD
        self._region = region

    def region(self, region: int) -> Noise:
        """Return streams of the same seed for another purpose (1: warm-up)."""
        return Noise(self.seed, region)

    def block(
        self, chains: Sequence[int], block: int, part: tuple[int, int] | None = None
    ) -> BlockNoise:
        """Return the streams of a group of chains at the start of one block.

        Args:
            chains: indices of chains.
            block: index of the block, not negative.
            part: draws to make of each chain, and those of a whole block.

        Returns:
            The streams, in the order of `chains`.
        """
        streams = []
        for chain in chains:
            # the block sits in the highest word: no block can run into the next
            bits = np.random.Philox(
                key=np.array([self.seed, chain], dtype=np.uint64),
                counter=np.array([0, 0, self._region, block], dtype=np.uint64),
            )
            streams.append(np.random.Generator(bits))
        return BlockNoise(streams, part)


class BlockNoise:
    """The random numbers of one block, a stream per chain.

    The last block of a run may make fewer draws than the others. Numbers whose first
    axis is as long as its draws are the first of those of a whole block, so that its
    draws are the first of a whole block too, and a run that is made longer goes on as
    if it had never ended.

    Args:
        streams: one generator per chain.
        part: draws to make of each chain, and those of a whole block; None where
            nothing will be made longer.

    Example:
        >>> part, whole = (Noise(7).block([0], 3, (n, 5)) for n in (2, 5))
        >>> bool((part.normal(2, 4) == whole.normal(5, 4)[:, :2]).all())
        True
        >>> bool((part.uniform(2) == whole.uniform(5)[:, :2]).all())
        True
    """

    def __init__(
        self,
        streams: Sequence[np.random.Generator],
        part: tuple[int, int] | None = None,
    ) -> None:
        self._streams = streams
        self._part = part
        # numbers of the draws left out, which the streams have yet to pass
        self._owed: tuple[Callable[..., np.ndarray], int, tuple[int, ...]] | None = None

    def whole(self, draws: int) -> int:
        """How many draws to compute together, of which the first `draws` are asked for.

        For what depends in its last bits on how many rows are computed at once, a
        matrix product say: compute it for a whole block, and cut.

        Args:
            draws: of the block that is made.

        Returns:
            Those of a whole block.
        """
        return draws if self._part is None else max(draws, self._part[1])

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers, `(chains, *shape)`."""
        return self._numbers(np.random.Generator.standard_normal, shape, dtype)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers on [0, 1), `(chains, *shape)`."""
        return self._numbers(np.random.Generator.random, shape, dtype)

    def generator(self, index: int) -> torch.Generator:
        """Make a torch generator seeded from the stream of the chain at `index`."""
        self._catch_up()
        seed = int(self._streams[index].integers(2**31))
        return torch.Generator().manual_seed(seed)

    def _numbers(
        self,
        draw: Callable[..., np.ndarray],
        shape: tuple[int, ...],
        dtype: torch.dtype | None,
    ) -> Tensor:
        self._catch_up()
        values = np.stack([draw(stream, shape) for stream in self._streams])
        if self._part is not None and shape[:1] == self._part[:1]:
            draws, whole = self._part
            self._owed = draw, whole - draws, shape[1:]
        return torch.from_numpy(values).to(dtype or torch.get_default_dtype())

    def _catch_up(self) -> None:
        """Pass the numbers of the draws left out, which only a later call needs."""
        if self._owed is not None:
            draw, draws, shape = self._owed
            for stream in self._streams:
                for _ in range(draws):  # one at a time, to save memory
                    draw(stream, shape)
            self._owed = None


class SequentialNoise:
    """One stream of random numbers, drawn in order.

    For particles that are moved and resampled together: they share a stream, and what
    is drawn depends on what was drawn before. Prefer :class:`Noise` wherever chains do
    not mix. This one has a place to go on from, which belongs in the snapshot of a run.

    Args:
        seed: any integer; only its lowest 64 bits count.
        *path: numbers that tell this stream from others of the same seed; zeros at
            its end count for nothing.
        state: where to go on, an earlier :attr:`state`; at the start if None.

    Example:
        >>> noise = SequentialNoise(7, 1)
        >>> place = noise.state
        >>> later = SequentialNoise(7, 1, state=place)
        >>> bool((noise.normal(3) == later.normal(3)).all())
        True
    """

    def __init__(self, seed: int, *path: int, state: Tensor | None = None) -> None:
        self._generator = torch.Generator()
        if state is None:
            self._generator.manual_seed(substream(seed, *path))
        else:
            # a restored snapshot may have put the state on another device
            self._generator.set_state(state.cpu())

    @property
    def state(self) -> Tensor:
        """Where the stream is, as bytes."""
        return self._generator.get_state()

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers, `shape`."""
        return torch.randn(shape, generator=self._generator, dtype=dtype)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform numbers on [0, 1), `shape`."""
        return torch.rand(shape, generator=self._generator, dtype=dtype)
