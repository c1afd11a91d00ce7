r"""The equations of motion of a particle that slides on a loss surface.

A particle of mass one slides on the surface :math:`(\theta, \alpha L(\theta))` under
gravity and friction. With :math:`d = \nabla L`, :math:`H` the Hessian,
:math:`W^2 = 1 + \alpha^2 |d|^2` and :math:`K = (|v|^2 + \alpha^2 (d \cdot v)^2)/2`

.. math:: \ddot\theta = -[\alpha^2 v^T H v + g]\, d / W^2 - f(K)\, v,
   \qquad f(K) = \mu_0 + \mu_1 \sqrt K,

so that the energy :math:`E = K + g L` only falls: :math:`\dot E = -2 f(K) K`.

Everything has a leading axis of lanes, which are independent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad, value_grad_hvp
from pyro_geo.ops.lanes import dot

__all__ = ["FlowParams", "Problem", "flow_params"]


class FlowParams(NamedTuple):
    """What all lanes share; entry 0 of a pair is for exploring, entry 1 for settling.

    Attributes:
        alpha: embedding scale of the surface, `()`; 0 is Euclidean.
        gravity: weight of the loss in the energy, `()`.
        step_tol: allowed energy defect as a share of the step's friction work, `()`.
        energy_atol: allowed energy defect over the whole run, `()`.
        k_stop: kinetic energy below which a stage ends early, `()`; 0 never.
        max_evals: model evaluations allowed per stage, `()`, integer.
        end_time: length of each stage, `(2,)`; 0 skips it.
        mu_linear: friction per time, `(2,)`.
        mu_quadratic: friction per length, `(2,)`.
    """

    alpha: Tensor
    gravity: Tensor
    step_tol: Tensor
    energy_atol: Tensor
    k_stop: Tensor
    max_evals: Tensor
    end_time: Tensor
    mu_linear: Tensor
    mu_quadratic: Tensor


def flow_params(
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
    alpha: float = 1.0,
    gravity: float = 1.0,
    step_tol: float = 0.3,
    energy_atol: float = 1e-2,
    k_stop: float = 0.0,
    max_evals: int = 20_000,
    end_time: tuple[float, float] = (2.0, 0.0),
    mu_linear: tuple[float, float] = (0.0, 0.0),
    mu_quadratic: tuple[float, float] = (0.0, 0.0),
) -> FlowParams:
    """Turn numbers into the tensors that a step takes.

    Args:
        dtype: floating dtype of the run.
        device: device of the run.
        alpha: embedding scale; 0 is Euclidean.
        gravity: weight of the loss in the energy.
        step_tol: allowed energy defect as a share of the friction work.
        energy_atol: allowed energy defect over the whole run.
        k_stop: kinetic energy below which a stage ends early; 0 never.
        max_evals: model evaluations allowed per stage.
        end_time: lengths of the two stages.
        mu_linear: friction per time in the two stages.
        mu_quadratic: friction per length in the two stages.

    Returns:
        The parameters, unchecked; :class:`FlowOptions` checks what users pass.

    Example:
        >>> flow_params(dtype=torch.float64, end_time=(2.0, 6.0)).end_time.tolist()
        [2.0, 6.0]
    """

    def real(x: float | tuple[float, float]) -> Tensor:
        return torch.tensor(x, dtype=dtype, device=device)

    return FlowParams(
        alpha=real(alpha),
        gravity=real(gravity),
        step_tol=real(step_tol),
        energy_atol=real(energy_atol),
        k_stop=real(k_stop),
        max_evals=torch.tensor(max_evals, device=device),
        end_time=real(end_time),
        mu_linear=real(mu_linear),
        mu_quadratic=real(mu_quadratic),
    )


@dataclass(frozen=True)
class Problem:
    """A loss surface with gravity and friction: what a solver has to integrate.

    Args:
        loss: block-separable loss, `(lanes, dim) -> (lanes,)`.
        params: numbers that all lanes share.
        euclidean: whether to leave the surface's metric out (`alpha` 0). Then no
            Hessian-vector product is taken and `params.alpha` is not read.

    Example:
        >>> params = flow_params(dtype=torch.float32)
        >>> plane = Problem(lambda x: x.sum(-1), params, euclidean=False)
        >>> v = torch.ones(1, 1)
        >>> plane.kinetic_energy(v, torch.ones(1, 1)).item()
        1.0
    """

    loss: BatchedLoss
    params: FlowParams
    euclidean: bool

    def kinetic_energy(self, v: Tensor, d: Tensor) -> Tensor:
        """Half the squared speed on the surface, `(lanes,)`; `d` is the gradient."""
        # the height a L(q) of the surface changes at the rate a d.v
        speed2 = dot(v, v)
        if self.euclidean:
            return 0.5 * speed2
        return 0.5 * (speed2 + (self.params.alpha * dot(d, v)) ** 2)

    def derivatives(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate loss, gradient and `H v`; the last is None on a flat surface."""
        if self.euclidean:
            return *value_and_grad(self.loss, q), None
        return value_grad_hvp(self.loss, q, v)

    def loss_and_kinetic_energy(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the two parts of the energy, `(lanes,)` each, without `H v`."""
        if self.euclidean:
            return self.loss(q).detach(), 0.5 * dot(v, v)
        value, d = value_and_grad(self.loss, q)
        return value, self.kinetic_energy(v, d)

    def end_time(self, stage: Tensor) -> Tensor:
        """Length of every lane's stage, `(lanes,)`."""
        return torch.where(stage == 1, self.params.end_time[1], self.params.end_time[0])

    def friction(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """Every lane's friction per time and per length, `(lanes,)` each."""
        # f(K) = mu0 + mu1 sqrt(K): mu0 is per time, mu1 per length of the path
        pairs = self.params.mu_linear, self.params.mu_quadratic
        mu0, mu1 = (torch.where(stage == 1, p[1], p[0]) for p in pairs)
        return mu0, mu1
