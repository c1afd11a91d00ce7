"""A Boolean network as a plant: its parameters are the unknown rule entries."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.planning.boolean_network import NetworkControl
from pyro_geo.planning.environments.plant import Plant

__all__ = ["BooleanPlant"]


class BooleanPlant(Plant):
    r"""A network under control, simulated for many rule sets at once.

    States are rows of zeros and ones, actions are numbers, and `theta` holds a zero or
    a one for each unknown rule entry.

    Args:
        problem: the network, its actions and costs.

    Example:
        >>> from pyro_geo.planning.boolean_network import melanoma
        >>> plant = BooleanPlant(melanoma(unknown=[("RET1", 3)]))
        >>> quiet = torch.ones(plant.noise_dim)
        >>> state = torch.zeros(plant.state_dim)
        >>> plant.simulate(plant.theta, state, torch.tensor(1), quiet)
        tensor([0., 0., 0., 1., 1., 1., 0., 1., 1., 1.])
    """

    def __init__(self, problem: NetworkControl) -> None:
        network = problem.network
        self.problem = problem
        self.parameters = tuple(
            f"{network.genes[gene]}[{row}]" for gene, row in network.unknown
        )
        self.state_dim = self.noise_dim = network.num_genes
        self.action_dim = 0
        self.actions = torch.arange(problem.num_actions)

    @property
    def theta(self) -> Tensor:
        """The entries of the published tables, `(k,)`."""
        values = self.problem.network.published_values()
        return values.to(torch.get_default_dtype())

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: values of the unknown entries, `(..., k)`.
            s: states, `(..., n)` zeros and ones.
            a: numbers of actions, `(...)`.
            noise: uniform numbers, `(..., n)`; a gene flips where its number is below
                the probability of a mutation.

        Returns:
            The next states, `(..., n)`, in the type of `s`.
        """
        problem = self.problem
        ahead = problem.network.step(s, theta) > 0.5
        flips = (problem.actions[a] > 0) ^ (noise < problem.mutation)
        return (ahead ^ flips).to(s.dtype)

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Minus the costs of the flips and of a bad target.

        Args:
            s: not used.
            a: numbers of actions, `(...)`.
            s_next: the states that followed, `(..., n)`.

        Returns:
            Rewards, `(...)`.
        """
        return self.problem.reward(a, s_next)

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first states, all equally probable.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            States, `(*shape, n)`.
        """
        drawn = torch.randint(2, (*shape, self.state_dim), generator=generator)
        return drawn.to(torch.get_default_dtype())

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise of steps, uniform from 0 to 1.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            Noise, `(*shape, n)`.
        """
        # in single precision a number below a rare mutation's probability is coarse
        return torch.rand(
            *shape, self.noise_dim, generator=generator, dtype=torch.float64
        )
