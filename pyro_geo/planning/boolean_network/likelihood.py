"""Likelihood of a series of measurements, summed over all paths of the states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_geo._compat.torch import validates
from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.planning.boolean_network.channel import Channel, floating
from pyro_geo.planning.boolean_network.hypercube import (
    Evidence,
    condition,
    evidence,
    mix_by,
    mutation_kernels,
    push,
    state_bits,
    state_index,
)
from pyro_geo.planning.boolean_network.network import BooleanNetwork

__all__ = ["BooleanHMM", "log_likelihood", "transition_log_prob"]


def log_likelihood(
    network: BooleanNetwork,
    y: Tensor,
    flips: Tensor | None = None,
    *,
    mutation: Tensor | float,
    channel: Channel,
    values: Tensor | None = None,
    initial: Tensor | None = None,
) -> Tensor:
    r"""Forward log-likelihood of measurements, exact.

    .. math:: \log p(y_{1:T}) = \log \sum_{x_{1:T}} \pi(x_1) \prod_t p(y_t \mid x_t)
        \prod_{t<T} p(x_{t+1} \mid x_t, u_t)

    One step costs :math:`O(n 2^n)`. Use it in a Pyro model as
    `pyro.factor("y", log_likelihood(...))`, or observe a :class:`BooleanHMM`.

    Args:
        network: genes and rules.
        y: measurements, `(..., T, n)`; NaN where none was made. The first ones are of
            the initial state.
        flips: genes that were flipped after each measurement but the last,
            `(..., T - 1, n)` zeros and ones. Left out: none.
        mutation: probability that a gene flips by itself: a number, or a tensor with
            last axis `n` or 1.
        channel: law of the measurements.
        values: of unknown entries of the rules, `(..., k)`.
        initial: distribution of the first state, `(..., 2^n)`. Left out: uniform.

    Returns:
        The log-likelihood, `(...)`, differentiable in `mutation`, `initial` and the
        parameters of the channel. All leading axes broadcast.

    References:
        Derived from the model of Imani, Ghoreishi and Braga-Neto (2018), Bayesian
        Control of Large MDPs with Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["10"])
        >>> y = torch.tensor([[0.0], [1.0]])
        >>> options = {"mutation": 0.0, "channel": Channel.bernoulli(0.1)}
        >>> round(log_likelihood(net, y, **options).exp().item(), 3)
        0.41
    """
    num_genes, image = network.num_genes, network.image(values).to(y.device)
    good = y.dim() >= 2 and y.shape[-1] == num_genes and y.shape[-2] > 0
    check_shape("y", y.shape, f"(..., T, {num_genes})", good)
    length = y.shape[-2]
    moves = None
    if flips is not None:
        check_shape("flips", flips.shape[-2:], (length - 1, num_genes))
        moves = state_index(flips).movedim(-1, 0)[..., None]  # (T - 1, ..., 1)
    # time goes first, so that parameters broadcast with what is behind it
    found = evidence(channel.log_prob(y.movedim(-2, 0)))
    belief = _start(network, initial, found.high)
    kernels = mutation_kernels(mutation, num_genes, found.high.dtype)
    belief, total = condition(belief, _at(found, 0))
    for t in range(1, length):
        index = image if moves is None else image ^ moves[t - 1]
        belief = mix_by(push(belief, index), kernels)
        belief, more = condition(belief, _at(found, t))
        total = total + more
    return total


def transition_log_prob(
    network: BooleanNetwork,
    states: Tensor,
    flips: Tensor | None = None,
    *,
    mutation: Tensor | float,
    values: Tensor | None = None,
) -> Tensor:
    r"""Log-probability of a path of states that are seen without noise.

    .. math:: \sum_t \log p(x_{t+1} \mid x_t, u_t), \qquad
        p(x' \mid x, u) = \prod_i p_i^{d_i} (1 - p_i)^{1 - d_i}, \quad
        d = x' \oplus f(x) \oplus u

    The states are not enumerated: the network may have any number of genes.

    Args:
        network: genes and rules.
        states: zeros and ones, `(..., T, n)`.
        flips: genes that were flipped at each step, `(..., T - 1, n)`.
        mutation: probability that a gene flips by itself: a number, or a tensor with
            last axis `n` or 1.
        values: of unknown entries of the rules, `(..., k)`.

    Returns:
        The log-probability given the first state, `(...)`; leading axes broadcast.

    Example:
        >>> net = BooleanNetwork("a", [["a"]], ["10"])
        >>> path = torch.tensor([[0.0], [1.0], [1.0]])
        >>> round(transition_log_prob(net, path, mutation=0.1).exp().item(), 3)
        0.09
    """
    rules = None if values is None else values[..., None, :]
    ahead = network.step(states[..., :-1, :], rules) > 0.5
    if flips is not None:
        length = states.shape[-2] - 1
        check_shape("flips", flips.shape[-2:], (length, network.num_genes))
        ahead = ahead ^ (flips > 0.5)
    p = floating(mutation)
    p = p[..., None, :] if p.dim() else p
    flipped = ahead ^ (states[..., 1:, :] > 0.5)
    return torch.where(flipped, p.log(), torch.log1p(-p)).sum((-2, -1))


class BooleanHMM(TorchDistribution):
    r"""Measurements of a Boolean network over time, states summed out.

    A distribution like Pyro's `DiscreteHMM`, with a state of `n` genes: its
    log-probability is :func:`log_likelihood`, and it samples series.

    Args:
        network: genes and rules.
        num_steps: length `T` of a series.
        mutation: probability that a gene flips by itself: a number, or a tensor with
            last axis `n` or 1.
        channel: law of the measurements.
        flips: genes that were flipped after each measurement but the last,
            `(..., T - 1, n)`.
        values: of unknown entries of the rules, `(..., k)`.
        initial: distribution of the first state, `(..., 2^n)`. Left out: uniform.

    Example:
        >>> net = BooleanNetwork("ab", [["b"], ["a"]], ["01", "10"])
        >>> hmm = BooleanHMM(net, 5, mutation=0.01, channel=Channel.poisson(1.0, 9.0))
        >>> y = hmm.sample()
        >>> y.shape, hmm.log_prob(y).shape
        (torch.Size([5, 2]), torch.Size([]))
    """

    arg_constraints: Any = {}

    # torch's own way to give a support, which its type of the base class leaves out
    @constraints.dependent_property(is_discrete=False, event_dim=2)
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Any matrix; the law of the measurements may rule some out."""
        return constraints.independent(constraints.real, 2)

    citations = ("bayes_control",)

    def __init__(
        self,
        network: BooleanNetwork,
        num_steps: int,
        *,
        mutation: Tensor | float,
        channel: Channel,
        flips: Tensor | None = None,
        values: Tensor | None = None,
        initial: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_count("num_steps", num_steps)
        rate = floating(mutation)
        self.network, self.mutation, self.channel = network, rate, channel
        self.flips, self.values, self.initial = flips, values, initial
        shapes = [rate.shape[:-1], channel.off.batch_shape[:-1]]
        shapes += [channel.on.batch_shape[:-1]]
        shapes += [] if flips is None else [flips.shape[:-2]]
        shapes += [x.shape[:-1] for x in (values, initial) if x is not None]
        event = torch.Size([num_steps, network.num_genes])
        if flips is not None:
            check_shape("flips", flips.shape[-2:], (num_steps - 1, event[1]))
        batch = torch.broadcast_shapes(*shapes)
        super().__init__(batch, event, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Give the batch more axes or longer ones.

        Args:
            batch_shape: the new shape, to which its own broadcasts.

        Returns:
            The same law with that batch.
        """
        new = type(self).__new__(type(self))
        for name in ("network", "mutation", "channel", "flips", "values", "initial"):
            setattr(new, name, getattr(self, name))
        batch = torch.Size(batch_shape)
        TorchDistribution.__init__(
            new, batch, self.event_shape, validate_args=validates(self)
        )
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood of series.

        Args:
            value: measurements, `(..., T, n)`; NaN where none was made.

        Returns:
            The logarithm of the density, `(...)`.
        """
        result = log_likelihood(
            self.network,
            value,
            self.flips,
            mutation=self.mutation,
            channel=self.channel,
            values=self.values,
            initial=self.initial,
        )
        shape = torch.broadcast_shapes(value.shape[:-2], self.batch_shape)
        return result.expand(shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw series of measurements.

        Args:
            sample_shape: shape of the sample.

        Returns:
            Measurements, `(*sample_shape, *batch_shape, T, n)`.
        """
        with torch.no_grad():
            states = self.sample_states(sample_shape)
            return self.channel.sample(states.movedim(-2, 0)).movedim(0, -2)

    def sample_states(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw paths of the states.

        Args:
            sample_shape: shape of the sample.

        Returns:
            Zeros and ones, `(*sample_shape, *batch_shape, T, n)`.
        """
        shape = torch.Size([*sample_shape, *self.batch_shape])
        length, count = self.event_shape
        if self.initial is None:
            state = torch.randint(2, (*shape, count))
        else:
            weights = self.initial.expand(*shape, -1)
            drawn = torch.multinomial(weights.reshape(-1, weights.shape[-1]), 1)
            state = state_bits(count)[drawn.reshape(shape)]
        path = [state]
        for t in range(length - 1):
            state = self.network.step(path[-1], self.values)
            noise = torch.rand(*shape, count) < self.mutation
            flip = (
                noise if self.flips is None else noise ^ (self.flips[..., t, :] > 0.5)
            )
            path.append(state ^ flip)
        return torch.stack(path, -2).to(torch.get_default_dtype())


def _start(network: BooleanNetwork, initial: Tensor | None, like: Tensor) -> Tensor:
    """The first belief, uniform if none is given."""
    size = network.num_states
    if initial is None:
        return like.new_full((size,), 1 / size)
    check_shape("initial", initial.shape[-1:], (size,))
    check(initial.is_floating_point(), "initial", initial.dtype, "a floating type")
    return initial


def _at(found: Evidence, t: int) -> Evidence:
    return Evidence(*(part[t] for part in found))
