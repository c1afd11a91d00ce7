"""Other certificates of the same network on the same data.

PAC-Bayes by backprop (Perez-Ortiz et al. 2021, JMLR 22), recursive PAC-Bayes (Wu et al.
2024, 2405.14681), a hold-out set, and the classical bounds by complexity. Each is given
its best setting, and is not charged for having chosen it.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from _gibbs_common import DELTA, Network, Split, logistic, wrong
from torch import Tensor

from pyro_geo.infer.certificates import bounds

SCALES = (1.0, 2.0, 3.0, 4.0)
STEPS = 3_000
_DRAWS = 2_000  # that the risk of a trained posterior is estimated from
_MC_SHARE = 0.1  # of delta, for that estimate
_FLOOR = 1e-2  # smallest probability of a class in the bounded cross-entropy
OBJECTIVES = ("kl", "quadratic")


class Certified(NamedTuple):
    """A certificate and what it is worth.

    Attributes:
        value: upper bound of the risk.
        test_risk: share of the test set that is wrong.
    """

    value: float
    test_risk: float


class Gaussian(NamedTuple):
    """A normal distribution of the weights, each for itself.

    Attributes:
        loc: means, `(dim,)`.
        scale: standard deviations, `(dim,)`.
    """

    loc: Tensor
    scale: Tensor

    def kl(self, other: "Gaussian") -> Tensor:
        """Divergence from another, in nats."""
        ratio = (self.scale / other.scale).square()
        shift = ((self.loc - other.loc) / other.scale).square()
        return 0.5 * (ratio + shift - 1 - ratio.log()).sum()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw weights, `(count, dim)`."""
        noise = torch.randn(
            count, len(self.loc), dtype=self.loc.dtype, generator=generator
        )
        return self.loc + self.scale * noise


def bounded_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with probabilities of at least `_FLOOR`, scaled to [0, 1]."""
    return logistic(logits, y).clamp(max=-math.log(_FLOOR)) / -math.log(_FLOOR)


def fit(
    network: Network,
    x: Tensor,
    y: Tensor,
    prior: Gaussian,
    objective: str,
    steps: int,
    seed: int,
) -> Gaussian:
    """Minimise a PAC-Bayes bound over normal distributions, by Adam.

    Args:
        network: the network.
        x: inputs.
        y: classes.
        prior: of the weights; the search starts there.
        objective: `"kl"`, Seeger's bound of a sigmoid loss, or `"quadratic"`, its
            relaxation, of a bounded cross-entropy.
        steps: of Adam.
        seed: of the draws.

    Returns:
        The distribution found.
    """
    generator = torch.Generator().manual_seed(seed)
    start = 0.1 * prior.scale * torch.randn(network.dim, generator=generator).double()
    loc = (prior.loc + start).requires_grad_()
    log_scale = prior.scale.log().requires_grad_()
    adam = torch.optim.Adam([loc, log_scale], lr=0.05)
    half = torch.optim.lr_scheduler.MultiStepLR(adam, [steps // 2, 3 * steps // 4])
    for _ in range(steps):
        posterior = Gaussian(loc, log_scale.exp())
        # a draw and its mirror image: half the noise at no cost
        noise = posterior.sample(4, generator)
        draws = torch.cat([noise, 2 * loc - noise])
        logits, k = network(draws, x), posterior.kl(prior)
        if objective == "kl":
            mistakes = torch.sigmoid(torch.where(y > 0.5, -logits, logits)).mean()
            value = bounds.seeger(mistakes, k, len(y), DELTA)
        else:
            value = bounds.quadratic(
                bounded_entropy(logits, y).mean(), k, len(y), DELTA
            )
        adam.zero_grad()
        value.backward()
        adam.step()
        half.step()
    return Gaussian(loc.detach(), log_scale.detach().exp())


def by_backprop(
    split: Split, hidden: int, scale: float, seed: int, steps: int = STEPS
) -> Certified:
    """Train a mean-field posterior and certify it, the better of two objectives."""
    network = Network(split.x.shape[1], hidden)
    zeros = torch.zeros(network.dim, dtype=torch.float64)
    prior = Gaussian(zeros, torch.full_like(zeros, scale))
    found = []
    for objective in OBJECTIVES:
        posterior = fit(network, split.x, split.y, prior, objective, steps, seed)
        found.append(certified(network, posterior, prior, split, seed))
    return min(found)


def certified(
    network: Network, posterior: Gaussian, prior: Gaussian, split: Split, seed: int
) -> Certified:
    """Bound the risk of a distribution by its draws and its divergence."""
    generator = torch.Generator().manual_seed(100 + seed)
    draws = posterior.sample(_DRAWS, generator)
    n = len(split.y)
    risk = float(wrong(network(draws, split.x), split.y).mean())
    drawn = bounds.kl_inverse(risk, math.log(2 / (_MC_SHARE * DELTA)) / _DRAWS)
    delta = (1 - _MC_SHARE) * DELTA
    complexity = float(posterior.kl(prior)) + math.log(2 * math.sqrt(n) / delta)
    value = bounds.kl_inverse(float(drawn), complexity / n)
    test = float(wrong(network(draws[:200], split.x_test), split.y_test).mean())
    return Certified(float(value), test)


def recursive(
    split: Split,
    hidden: int,
    scale: float,
    seed: int,
    steps: int = STEPS,
    rounds: int = 4,
) -> Certified:
    r"""Certify by recursive PAC-Bayes: each round's posterior is the next one's prior.

    The risk is split into what is gained over the round before, and half of that
    round's risk: `R(t) = E[l_t - l_{t-1} / 2] + R(t-1) / 2`. The first term takes the
    values -1/2, 0, 1/2 and 1; each of its three steps is bounded by a kl inverse
    (split-kl). Round `t` trains on the points so far and is certified on those that
    its prior has not seen.
    """
    network = Network(split.x.shape[1], hidden)
    generator = torch.Generator().manual_seed(200 + seed)
    n = len(split.y)
    ends = [n // 2 ** (rounds - t - 1) for t in range(rounds)]
    zeros = torch.zeros(network.dim, dtype=torch.float64)
    prior = Gaussian(zeros, torch.full_like(zeros, scale))
    bound, before = 1.0, None
    seen, draws = 0, prior.sample(_DRAWS, generator)
    for end in ends:
        posterior = fit(
            network, split.x[:end], split.y[:end], prior, "quadratic", steps, seed
        )
        x, y = split.x[seen:], split.y[seen:]
        draws = posterior.sample(_DRAWS, generator)
        mistakes = wrong(network(draws, x), y)
        complexity = float(posterior.kl(prior))
        if before is None:
            bound = _stepwise([(1.0, mistakes.mean())], 0.0, complexity, len(y), rounds)
        else:
            old = wrong(network(before, x), y)
            gain = mistakes - 0.5 * old
            levels = [(0.5, (gain >= level).double().mean()) for level in (0, 0.5, 1)]
            bound = 0.5 * bound + _stepwise(levels, -0.5, complexity, len(y), rounds)
        prior, before, seen = posterior, draws, end
    test = float(wrong(network(draws[:200], split.x_test), split.y_test).mean())
    return Certified(bound, test)


def _stepwise(
    steps: list[tuple[float, Tensor]], low: float, kl: float, n: int, rounds: int
) -> float:
    delta = DELTA / rounds
    spent = math.log(2 * len(steps) / (_MC_SHARE * delta)) / _DRAWS
    complexity = kl + math.log(
        2 * math.sqrt(n) * len(steps) / ((1 - _MC_SHARE) * delta)
    )
    total = low
    for height, share in steps:
        drawn = bounds.kl_inverse(float(share), spent)
        total += height * float(bounds.kl_inverse(float(drawn), complexity / n))
    return total


def train(network: Network, x: Tensor, y: Tensor, seed: int, steps: int) -> Tensor:
    """Fit one network by Adam with weight decay, `(dim,)`."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(network.dim, generator=generator).double() / 3
    w.requires_grad_()
    adam = torch.optim.AdamW([w], lr=0.01, weight_decay=0.01)
    for _ in range(steps):
        adam.zero_grad()
        logistic(network(w, x), y).mean().backward()
        adam.step()
    return w.detach()


def hold_out(split: Split, hidden: int, seed: int, steps: int = STEPS) -> Certified:
    """Train on one half, and count mistakes on the other (Clopper-Pearson)."""
    network = Network(split.x.shape[1], hidden)
    half = len(split.y) // 2
    w = train(network, split.x[:half], split.y[:half], seed, steps // 3)
    mistakes = int(wrong(network(w, split.x[half:]), split.y[half:]).sum())
    value = bounds.clopper_pearson(mistakes, len(split.y) - half, DELTA)
    test = float(wrong(network(w, split.x_test), split.y_test).mean())
    return Certified(float(value), test)


def classical(
    split: Split, hidden: int, seed: int, steps: int = STEPS
) -> Iterator[tuple[str, Certified]]:
    """Bounds by complexity, of a network trained on everything."""
    network = Network(split.x.shape[1], hidden)
    w = train(network, split.x, split.y, seed, steps // 3)
    logits = network(w, split.x)
    test = float(wrong(network(w, split.x_test), split.y_test).mean())
    n, risk = len(split.y), float(wrong(logits, split.y).mean())
    # at least as many dimensions as weights, whatever the constant of the theorem
    dim = network.dim
    deviation = (8 / n) * (dim * math.log(2 * math.e * n / dim) + math.log(4 / DELTA))
    yield "VC (dimension = weights)", Certified(risk + math.sqrt(deviation), test)
    w1, b1, w2, b2 = network.layers(w)
    first = torch.cat([w1, b1[None]])
    second = torch.cat([w2, b2[None]])
    signed = torch.where(split.y > 0.5, logits, -logits)
    reach = float((split.x.square().sum(1) + 1).max().sqrt())
    frobenius = (
        reach
        * float(first.norm() * second.norm())
        * (math.sqrt(2 * math.log(2) * 2) + 1)
    )
    yield "Frobenius norms", Certified(_margin(signed, frobenius, n), test)
    spectral = float(torch.linalg.matrix_norm(first, 2) * second.norm())
    columns = float(first.norm(dim=0).sum() / torch.linalg.matrix_norm(first, 2))
    spread = (columns ** (2 / 3) + 1) ** 1.5 * math.log(2 * max(first.shape))
    norm = float((split.x.square().sum(1) + 1).sum().sqrt()) / math.sqrt(n)
    yield (
        "spectral norms",
        Certified(_margin(signed, norm * spectral * spread, n), test),
    )


def _margin(signed: Tensor, complexity: float, n: int) -> float:
    """Best margin of a grid, for a union over it."""
    margins = torch.logspace(-2, 2, 30, dtype=torch.float64)
    short = (signed < margins[:, None]).double().mean(1)
    penalty = 2 * complexity / (margins * math.sqrt(n))
    confidence = 3 * math.sqrt(math.log(2 * len(margins) / DELTA) / (2 * n))
    return float((short + penalty + confidence).min())
