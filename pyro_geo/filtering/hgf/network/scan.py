"""One pass over the inputs of a network: predict downwards, learn upwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_geo.filtering.hgf.network.children import Children, children_update
from pyro_geo.filtering.hgf.network.graph import Graph
from pyro_geo.filtering.hgf.network.prediction import (
    NetworkInputs,
    NetworkParameters,
    NetworkPredictions,
    binary_chance,
    predict,
)
from pyro_geo.filtering.hgf.parameters import Update
from pyro_geo.filtering.hgf.volatility import volatility_update

__all__ = ["network_scan"]


def network_scan(
    graph: Graph,
    parameters: NetworkParameters,
    inputs: NetworkInputs,
    *,
    update: Update = "unbounded",
) -> tuple[Tensor, Tensor]:
    r"""Filter the inputs of a network.

    A step predicts parents before their children and updates children before their
    parents: first by inputs and value children at once, exactly for linear couplings,

    .. math::
        \pi_b = \hat\pi_b + \sum_a \hat\pi_a (t \psi_{ab} g')^2, \qquad
        \mu_b = \hat\mu_b + \sum_a t \psi_{ab} g' \hat\pi_a
        (\mu_a - \hat\mu_a) / \pi_b,

    then by volatility children. A coupling that is not linear takes
    :math:`\hat\pi_a t \psi g'' (\mu_a - \hat\mu_a)` from the precision, unless
    nothing positive would be left. States that nothing observed reports to keep their
    prediction, and messages of children that report nothing are left out.

    Where an update leaves no positive precision, the beliefs of the state, of its
    ancestors and of all later steps become NaN; derivatives stay finite.

    Args:
        graph: of the network.
        parameters: its numbers; their batch broadcasts with that of the inputs.
        inputs: what is observed.
        update: rule for volatility parents.

    Returns:
        Means and precisions after each step, `(*batch, T, states)`.

    References:
        The generalized Hierarchical Gaussian Filter (arXiv 2305.10937); the factor t
        of value coupling, nonlinear coupling without the term that makes a precision
        negative, and several volatility parents of one child: derived.
    """
    step = _Step(graph, parameters, update)
    mean, variance = step.first(inputs)
    alive = torch.ones_like(mean[0], dtype=torch.bool)
    means, variances = [], []
    columns = zip(
        inputs.u.unbind(-2),
        inputs.observed.unbind(-2),
        inputs.time_step.unbind(-1),
        strict=True,
    )
    for u, observed, t in columns:
        prediction = predict(graph, step.numbers, mean, variance, t)
        mean, variance, sound = step.learn(
            prediction, variance, u.unbind(-1), observed.unbind(-1)
        )
        now = mean, variance
        if step.may_fail:
            now = _without_failed(graph, mean, variance, alive, sound)
            for good in sound:
                alive = alive & good
        means.append(torch.stack(now[0], -1))
        variances.append(torch.stack(now[1], -1))
    return torch.stack(means, -2), 1 / torch.stack(variances, -2)


def _without_failed(
    graph: Graph,
    mean: Sequence[Tensor],
    variance: Sequence[Tensor],
    alive: Tensor,
    sound: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Blank what depends on a failed update: later steps, the state, its ancestors."""
    whole: list[Tensor] = [alive] * len(sound)
    for a in reversed(graph.downward):
        below = [*graph.children(a, "value"), *graph.children(a, "volatility")]
        for good in [whole[child] for _, child in below] + [sound[a]]:
            whole[a] = whole[a] & good
    nan = mean[0].new_full((), torch.nan)
    return (
        [torch.where(good, m, nan) for good, m in zip(whole, mean, strict=True)],
        [torch.where(good, v, nan) for good, v in zip(whole, variance, strict=True)],
    )


class _Step:
    """The equations of one step; its lists run over the states of the graph."""

    def __init__(
        self, graph: Graph, parameters: NetworkParameters, update: Update
    ) -> None:
        self.graph = graph
        self.update: Update = update
        self.may_fail = update in ("classic", "ehgf_pyhgf")
        self.numbers = {
            name: value.unbind(-1) for name, value in parameters._asdict().items()
        }
        states = range(len(graph.names))
        self.value_children = [graph.children(a, "value") for a in states]
        self.volatility_children = [graph.children(a, "volatility") for a in states]
        self.inputs = [graph.inputs_of(a) for a in states]

    def first(self, inputs: NetworkInputs) -> tuple[list[Tensor], list[Tensor]]:
        """Beliefs before the first step, in the batch of parameters and inputs."""
        shape = torch.broadcast_shapes(
            inputs.u.shape[:-2],
            inputs.time_step.shape[:-1],
            self.numbers["mu0"][0].shape,
        )
        mean = [value.expand(shape) for value in self.numbers["mu0"]]
        return mean, [(1 / value).expand(shape) for value in self.numbers["pi0"]]

    def learn(
        self,
        prediction: NetworkPredictions,
        before: Sequence[Tensor],
        u: Sequence[Tensor],
        observed: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Update all states, children before their parents; say which updates held."""
        muhat, predicted = prediction.mean, prediction.variance
        mean, variance = list(muhat), list(predicted)
        false = torch.zeros_like(muhat[0], dtype=torch.bool)
        reported, sound = [false] * len(mean), [~false] * len(mean)
        for a in reversed(self.graph.downward):
            reported[a] = self._reported(a, observed, reported, false)
            if not (
                self.inputs[a] or self.value_children[a] or self.volatility_children[a]
            ):
                continue
            m, p = self._by_value(a, prediction, mean, reported, u, observed)
            if self.volatility_children[a]:
                children = self._children(
                    a, prediction, before, mean, variance, reported
                )
                m, p = _by_volatility(self.update, children, m, p)
            if self.may_fail:
                sound[a] = ~reported[a] | ((p > 0) & p.isfinite() & m.isfinite())
            good = reported[a] & sound[a]
            mean[a] = torch.where(good, m, muhat[a])
            # before the division, as a gradient of infinity is never 0
            p = torch.where(good, p, 1.0)
            variance[a] = torch.where(good, 1 / p, predicted[a])
        return mean, variance, sound

    def _reported(
        self,
        a: int,
        observed: Sequence[Tensor],
        reported: Sequence[Tensor],
        false: Tensor,
    ) -> Tensor:
        found = false
        for k in self.inputs[a]:
            found = found | observed[k]
        for _, child in self.value_children[a] + self.volatility_children[a]:
            found = found | reported[child]
        return found

    def _by_value(
        self,
        a: int,
        prediction: NetworkPredictions,
        mean: Sequence[Tensor],
        reported: Sequence[Tensor],
        u: Sequence[Tensor],
        observed: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Fold inputs and value children into a prediction, all at once."""
        muhat, p = prediction.mean[a], 1 / prediction.variance[a]
        push: list[Tensor] = []
        bend: list[Tensor] = []
        for k in self.inputs[a]:
            if self.graph.inputs[k].kind == "binary":
                chance = binary_chance(muhat)
                p = p + observed[k] * (chance * (1 - chance))
                push.append(observed[k] * (u[k] - chance))
            else:
                noise = observed[k] * self.numbers["input_precision"][k]
                p = p + noise
                push.append(noise * (u[k] - muhat))
        for edge, child in self.value_children[a]:
            g = self.graph.value_edges[edge].function
            slope = self.numbers["value_coupling"][edge] * prediction.time_step
            error = mean[child] - prediction.mean[child]
            weight = reported[child] / prediction.variance[child]
            if g is not None:
                first, second = _derivatives(g, muhat)
                bend.append(weight * slope * second * error)
                slope = slope * first
            p = p + weight * slope * slope
            push.append(weight * slope * error)
        if bend:
            bent = p - sum(bend[1:], bend[0])
            p = torch.where(bent > 0, bent, p)
        return (muhat + sum(push[1:], push[0]) / p if push else muhat), p

    def _children(
        self,
        a: int,
        prediction: NetworkPredictions,
        before: Sequence[Tensor],
        mean: Sequence[Tensor],
        variance: Sequence[Tensor],
        reported: Sequence[Tensor],
    ) -> Children:
        """Collect what the volatility children of a state report."""
        rows = []
        for edge, child in self.volatility_children[a]:
            kappa = self.numbers["kappa"][edge]
            error = mean[child] - prediction.mean[child]
            rows.append(
                torch.broadcast_tensors(
                    before[child],
                    variance[child] + error * error,
                    kappa,
                    # what the other parents add stays at their predictions
                    prediction.log_volatility[child] - kappa * prediction.mean[a],
                )
            )
        alpha, beta, kappa, offset = (
            torch.stack(row) for row in zip(*rows, strict=True)
        )
        told = [reported[child] for _, child in self.volatility_children[a]]
        return Children(alpha, beta, kappa, offset, torch.stack(told))


def _derivatives(g: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivatives of a function of each element."""

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: g(x).sum())(x)

    return slope(x), torch.func.grad(lambda x: slope(x).sum())(x)


def _by_volatility(
    update: Update, children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> tuple[Tensor, Tensor]:
    """Update by volatility children, by the rule of chains where there is one."""
    if len(children.kappa) > 1:
        return children_update(update, children, mu_hat, pi_hat)
    alpha, beta, kappa, offset, reported = (value[0] for value in children)
    one = torch.ones_like(alpha)
    m, p = volatility_update(update, alpha, beta, kappa, offset, one, mu_hat, pi_hat)
    return torch.where(reported, m, mu_hat), torch.where(reported, p, pi_hat)
