r"""A pendulum to be swung up, whose mass and length are unknown."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.planning.environments.plant import Plant

__all__ = ["Pendulum"]


class Pendulum(Plant):
    r"""A rod on a hinge that a torque too weak to lift it must swing up.

    .. math:: \dot\alpha' = \dot\alpha + \Big(\frac{3 g}{2 l} \sin\alpha
        + \frac{3}{m l^2} a\Big) \Delta + \sigma w, \qquad
        \alpha' = \alpha + \dot\alpha' \Delta

    The dynamics and the reward :math:`-(\alpha^2 + 0.1 \dot\alpha^2 + 0.001 a^2)` are
    those of Gymnasium's `Pendulum-v1`; the angle is zero upright. A state is
    :math:`(\cos\alpha, \sin\alpha, \dot\alpha)`, smooth in the angle. Parameters are
    mass `m` and length `l`.

    Args:
        mass: in kilograms.
        length: in metres.
        gravity: in metres per square second.
        step: the time :math:`\Delta`, in seconds.
        noise: standard deviation :math:`\sigma` of the noise of the speed.
        limit: largest torque.
        max_speed: beyond which the speed is cut.

    Example:
        >>> plant = Pendulum()
        >>> down = torch.tensor([-1.0, 0.0, 0.0])
        >>> push = torch.tensor([2.0])
        >>> plant.simulate(plant.theta, down, push, torch.zeros(1))
        tensor([-0.9999, -0.0150,  0.3000])
    """

    parameters = ("mass", "length")
    state_dim, action_dim, noise_dim = 3, 1, 1

    def __init__(
        self,
        mass: float = 1.0,
        length: float = 1.0,
        *,
        gravity: float = 10.0,
        step: float = 0.05,
        noise: float = 0.0,
        limit: float = 2.0,
        max_speed: float = 8.0,
    ) -> None:
        positive = {"mass": mass, "length": length, "step": step, "limit": limit}
        for name, value in {**positive, "max_speed": max_speed}.items():
            check_number(name, value, strict=True)
        check_number("gravity", gravity)
        check_number("noise", noise)
        self.mass, self.length, self.gravity = mass, length, gravity
        self.step, self.noise, self.limit = step, noise, limit
        self.max_speed = max_speed

    @property
    def theta(self) -> Tensor:
        """Mass and length that the plant was made with, `(2,)`."""
        return torch.tensor([self.mass, self.length])

    def simulate(self, theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        """Make one step.

        Args:
            theta: mass and length, `(..., 2)`.
            s: cosine and sine of the angle, and speed, `(..., 3)`.
            a: torque, cut at the limit, `(..., 1)`.
            noise: standard normal numbers, `(..., 1)`.

        Returns:
            The next states, `(..., 3)`.
        """
        mass, length = theta.unbind(-1)
        cos, sin, speed = s.unbind(-1)
        torque = a[..., 0].clamp(-self.limit, self.limit)
        push = 1.5 * self.gravity / length * sin + 3 * torque / (mass * length**2)
        speed = speed + push * self.step + self.noise * noise[..., 0]
        speed = speed.clamp(-self.max_speed, self.max_speed)
        turn = speed * self.step
        # turned as a vector: no angle is taken, and nothing jumps at half a turn
        c, d = turn.cos(), turn.sin()
        cos, sin = cos * c - sin * d, sin * c + cos * d
        size = torch.hypot(cos, sin)
        return torch.stack([cos / size, sin / size, speed], -1)

    def reward(self, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        """Minus the cost of the angle, the speed and the torque.

        Args:
            s: states, `(..., 3)`.
            a: torque, cut at the limit, `(..., 1)`.
            s_next: not used.

        Returns:
            Rewards, `(...)`.
        """
        angle = torch.atan2(s[..., 1], s[..., 0])
        torque = a[..., 0].clamp(-self.limit, self.limit)
        return -(angle**2 + 0.1 * s[..., 2] ** 2 + 0.001 * torque**2)

    def initial(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw first states: any angle, speeds from -1 to 1.

        Args:
            shape: of the draws.
            generator: source of the randomness.

        Returns:
            States, `(*shape, 3)`.
        """
        dtype = torch.get_default_dtype()
        drawn = 2 * torch.rand(*shape, 2, generator=generator, dtype=dtype) - 1
        angle, speed = math.pi * drawn[..., 0], drawn[..., 1]
        return torch.stack([angle.cos(), angle.sin(), speed], -1)
