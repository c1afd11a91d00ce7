"""Action values as Gaussian processes, kept as plain tensors."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.errors import DiscountError
from pyro_geo.gp import Transitions
from pyro_geo.planning.backends import Learned, ValueBackend

if TYPE_CHECKING:
    from gpytorch.distributions import MultivariateNormal

    from pyro_geo.gp import ExactGPTD
    from pyro_geo.planning.environments import Plant

__all__ = [
    "has_quadrature",
    "GPTDValues",
    "PlantValues",
    "StateSampler",
    "successor_noise",
    "variances",
]

StateSampler = Callable[[int, torch.Generator], Tensor]
_STEPS = ("x", "x_next", "reward", "coefficient")


class PlantValues(ValueBackend):
    """What backends share that simulate a plant.

    Args:
        discount: of the rewards, below 1.
        num_actions: levels of each number of an action, where the plant does not list
            its actions.
    """

    def __init__(self, *, discount: float = 0.95, num_actions: int = 9) -> None:
        if not 0 <= discount < 1:
            raise DiscountError(
                "wrong discount",
                where="argument discount",
                found=repr(discount),
                expected="a number from 0 to below 1",
                todo="Lower it: the plants never terminate.",
            )
        check_count("num_actions", num_actions, 2)
        self.discount, self.num_actions = discount, num_actions

    @property
    def simulator(self) -> Plant:
        """The plant, which must be there."""
        check(self.plant is not None, "plant", None, "a plant to simulate")
        assert self.plant is not None
        return self.plant

    @property
    def grid(self) -> Tensor:
        """The actions, `(A, ...)`."""
        plant = self.simulator
        if plant.actions is not None:
            return plant.actions.double()
        levels = torch.linspace(-plant.limit, plant.limit, self.num_actions).tolist()
        rows = list(itertools.product(levels, repeat=plant.action_dim))
        return torch.tensor(rows, dtype=torch.float64)


def has_quadrature(plant: Plant) -> bool:
    """Tell whether the noise of a step is one standard normal number.

    Args:
        plant: the dynamics.

    Returns:
        Whether it is.
    """
    return plant.noise_dim == 1 and plant.normal_noise


def successor_noise(plant: Plant, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make noise that stands for all noise of a step.

    Args:
        plant: the dynamics.
        count: how many.
        seed: of draws, where there is no quadrature.

    Returns:
        Noise `(J, k)` and its weights `(J,)`: the nodes of Gauss-Hermite quadrature for
        one normal number, equal weights of draws otherwise.
    """
    if has_quadrature(plant):
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        return torch.from_numpy(nodes)[:, None], torch.from_numpy(
            weights / weights.sum()
        )
    noise = plant.draw_noise((count,), torch.Generator().manual_seed(seed))
    return noise.double(), torch.full((count,), 1 / count, dtype=torch.float64)


class GPTDValues(PlantValues):
    """What both backends of Gaussian processes share.

    Nodes are states with actions. A draw keeps its transitions and hyperparameters, and
    the process is conditioned again when values are asked for.

    Args:
        discount: of the rewards, below 1.
        num_actions: levels of each number of an action, where the plant does not list
            its actions.
        states: draws states where values are learned, `states(count, generator)`; the
            plant's first states when left out.
        fit_steps: iterations of a search for hyperparameters.
    """

    citations = ("bayes_control", "gptd")
    noise: Literal["reward", "return"] = "reward"

    def __init__(
        self,
        *,
        discount: float = 0.95,
        num_actions: int = 9,
        states: StateSampler | None = None,
        fit_steps: int = 20,
    ) -> None:
        super().__init__(discount=discount, num_actions=num_actions)
        check_count("fit_steps", fit_steps, 0)
        self.states, self.fit_steps = states, fit_steps
        self._last: tuple[Mapping[str, Tensor], ExactGPTD] | None = None

    @abstractmethod
    def learn(self, theta: Tensor, seeds: list[int]) -> Learned:
        """Learn the values under some draws.

        Args:
            theta: draws of the parameters, `(B, P)`.
            seeds: of the randomness of each draw.

        Returns:
            Transitions and hyperparameters.
        """

    def q(self, tensors: Mapping[str, Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
        """Predict action values.

        Args:
            tensors: as learned.
            s: states, `(m, n)`.

        Returns:
            Mean and variance, `(B, m, A)`.
        """
        model = self._model(tensors)
        s = s.to(model.transitions.x).expand(*model.transitions.batch_shape, *s.shape)
        with torch.no_grad():
            found = model.value(self._nodes(s))
            shape = *s.shape[:-1], len(self.grid)
            return found.mean.reshape(shape), variances(found).reshape(shape)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_last": None}

    # -- nodes ----------------------------------------------------------------------

    def _nodes(self, s: Tensor) -> Tensor:
        """States with every action, `(..., m * A, D)` of `(..., m, n)`."""
        actions = self._columns(self.grid).to(s)
        count = len(actions)
        wide = s.unsqueeze(-2).expand(*s.shape[:-1], count, s.shape[-1])
        both = torch.cat([wide, actions.expand(*wide.shape[:-1], -1)], -1)
        return both.flatten(-3, -2)

    def _columns(self, actions: Tensor) -> Tensor:
        """Columns of actions: numbers as they are, labels as unit vectors."""
        if self.simulator.action_dim > 0:
            return actions
        size = len(self.grid)
        return torch.nn.functional.one_hot(actions.long(), size).double()

    def _join(self, s: Tensor, actions: Tensor) -> Tensor:
        columns = self._columns(actions).to(s)
        lead = torch.broadcast_shapes(s.shape[:-1], columns.shape[:-1])
        return torch.cat([s.expand(*lead, -1), columns.expand(*lead, -1)], -1)

    # -- models ---------------------------------------------------------------------

    def _fitted(
        self, steps: Transitions, before: ExactGPTD | None, num_steps: int
    ) -> ExactGPTD:
        """Condition on transitions; hyperparameters start from those before."""
        from pyro_geo.gp import ExactGPTD

        model = ExactGPTD(steps, noise=self.noise)
        if before is not None:
            _take(model, _parameters(before))
        with torch.enable_grad():
            return model.fit(num_steps)

    def _kept(self, model: ExactGPTD) -> dict[str, Tensor]:
        """The tensors that make a model again."""
        steps = model.transitions
        found = {name: getattr(steps, name) for name in _STEPS}
        # stored once for each draw, because every tensor leads with the draws
        found["episode"] = steps.episode.expand(steps.reward.shape)
        named = _parameters(model)
        return {k: v.detach().clone() for k, v in {**found, **named}.items()}

    def _model(self, tensors: Mapping[str, Tensor]) -> ExactGPTD:
        from pyro_geo.gp import ExactGPTD

        if self._last is None or self._last[0] is not tensors:
            x, x_next, reward, coefficient = (tensors[name] for name in _STEPS)
            total = coefficient.sum(-1)
            even = torch.full_like(coefficient, 1 / coefficient.shape[-1])
            some = total[..., None] > 0
            weight = torch.where(some, coefficient / total[..., None], even)
            label = tensors["episode"][0]
            steps = Transitions(x, x_next, reward, total, weight, label)
            model = ExactGPTD(steps, noise=self.noise)
            _take(model, tensors)
            self._last = tensors, model.eval()
        return self._last[1]

    def _mean(self, model: ExactGPTD, s: Tensor) -> Tensor:
        """Mean action values, `(B, m, A)` of states `(B, m, n)`."""
        import gpytorch

        with torch.no_grad(), gpytorch.settings.skip_posterior_variances():
            found = model.value(self._nodes(s)).mean
        return found.reshape(*s.shape[:-1], -1)

    def _draw_states(self, seeds: list[int], count: int) -> Tensor:
        """States of each draw, `(B, count, n)`."""
        plant, own = self.simulator, self.states

        def sample(count: int, generator: torch.Generator) -> Tensor:
            if own is not None:
                return own(count, generator)
            return plant.initial((count,), generator)

        rows = [sample(count, torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).double()

    def _draw_noise(self, seeds: list[int], shape: tuple[int, ...]) -> Tensor:
        """Noise of each draw, `(B, *shape, k)`."""
        plant = self.simulator
        rows = [
            plant.draw_noise(shape, torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(rows).double()


def variances(found: MultivariateNormal) -> Tensor:
    """Variances of a prediction; GPyTorch warns of rounding below zero, this cuts it.

    Args:
        found: the prediction.

    Returns:
        Variances, `(..., n)`.
    """
    covariance = found.lazy_covariance_matrix
    return covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0)


def _parameters(model: ExactGPTD) -> dict[str, Tensor]:
    named = {f"mean.{n}": p for n, p in model.mean_module.named_parameters()}
    named |= {f"kernel.{n}": p for n, p in model.covar_module.named_parameters()}
    return named | {f"noise.{n}": p for n, p in model.likelihood.named_parameters()}


def _take(model: ExactGPTD, values: Mapping[str, Tensor]) -> None:
    for name, parameter in _parameters(model).items():
        parameter.data.copy_(values[name])
