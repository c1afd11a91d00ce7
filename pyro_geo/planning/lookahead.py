"""Values of actions that count what the next state will teach."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.ops.weights import systematic
from pyro_geo.planning.library import OfflineLibrary
from pyro_geo.planning.parameter_gp import ParameterGP
from pyro_geo.planning.posteriors import Knowledge, LogLikelihood

__all__ = ["lookahead_values"]


def lookahead_values(
    library: OfflineLibrary,
    known: Knowledge,
    s: Tensor,
    *,
    gp: ParameterGP | None,
    log_likelihood: LogLikelihood,
    num_samples: int = 16,
) -> Tensor:
    r"""Look one step ahead, the posterior after that step included.

    .. math:: r + \gamma\, E_{s'} \max_{a'} E_{\theta \mid D, s'} Q_\theta(s', a')

    Next states are simulated under draws of the posterior, with the same draws and the
    same noise for all actions. Each one reweights all draws by its likelihood.

    Args:
        library: with a plant.
        known: draws of the posterior; the state is seen.
        s: the state, `(n,)`.
        gp: carries values to the draws; None where they are those of the library.
        log_likelihood: of one step, broadcasting.
        num_samples: next states of each action.

    Returns:
        Values of the actions, `(A,)`.
    """
    plant, every = library.plant, library.backend.grid
    assert plant is not None
    assert every is not None
    theta = known.theta
    seed = int(torch.randint(2**31, ()))
    noise = plant.draw_noise((num_samples,), torch.Generator().manual_seed(seed))
    rows = systematic(known.log_weights, torch.rand(()), num_samples)
    rows = rows[torch.randperm(num_samples)]  # sorted rows would pair with the noise
    own = theta[rows]  # (K, P)
    actions = every[:, None]  # (A, 1, ...)
    s = s.to(theta.dtype) if s.is_floating_point() else s
    following = plant.simulate(own, s, actions, noise.to(own))
    reward = plant.reward(s, actions, following)
    reward = reward.expand(following.shape[:2])  # (A, K)
    gain = log_likelihood(theta, s, actions[:, :, None], following[:, :, None])
    gain = gain.double().nan_to_num(-torch.inf)
    weights = (known.log_weights.double() + gain).log_softmax(-1)  # (A, K, M)
    shape = reward.shape
    q, variance = library.q(following.flatten(0, 1))  # (N, A K, A')
    flat = weights.flatten(0, 1)
    if gp is None:
        mean = torch.einsum("cj,jca->ca", flat.exp(), q.double())
    else:
        y, v = q.movedim(0, -1), variance.movedim(0, -1)  # (A K, A', N)
        mean = gp.averages(y, v, library.unit(theta), flat)
    best = mean.amax(-1).reshape(shape)
    return (reward.double() + library.backend.discount * best).mean(-1)
