"""Log-density of the latent sites of a model, one number for each entry of a plate."""

from __future__ import annotations

from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_geo.density.model import ModelDensity
from pyro_geo.density.sites import log_prob_of
from pyro_geo.density.target import Target
from pyro_geo.errors import UnsupportedError

__all__ = ["latent_log_probs"]


def latent_log_probs(target: Target, q: Tensor) -> dict[str, Tensor]:
    r"""Log-prior of each latent site given the others, not summed over its plates.

    .. math:: \log p(z_i \mid \mathrm{parents}) + \log|\partial z_i / \partial q_i|

    Args:
        target: made from a Pyro model.
        q: positions, `(chains, dim)`.

    Returns:
        Latent site to `(chains, *batch)`, log-Jacobians included.

    Raises:
        UnsupportedError: the target is no model.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("subject", 3):
        ...         pyro.sample("b", dist.LogNormal(0.0, 1.0))
        ...     pyro.factor("data", torch.tensor(0.0))
        >>> target = Target.from_model(model)
        >>> q = torch.zeros(2, 3)
        >>> found = latent_log_probs(target, q)["b"]
        >>> found.shape, bool(found.sum(1).allclose(target.log_prior(q)))
        (torch.Size([2, 3]), True)
    """
    density, data = target.density, target.data
    if not isinstance(density, ModelDensity):
        raise UnsupportedError(
            "there are no latent sites",
            where="argument target",
            found=type(density).__name__,
            expected="a target made from a Pyro model",
            todo="Use Target.from_model.",
        )

    def one(position: Tensor) -> dict[str, Tensor]:
        with density._mode(position):
            free = density.layout.unflatten(position)
            values = density.layout.constrain(position)
            sites = density._conditioned(values, data)[1]
            found = {}
            for name, site in density.layout.sites.items():
                message = sites[name]
                log_prob = scale_and_mask(
                    log_prob_of(name, message), message["scale"], message["mask"]
                )
                jacobian = site.transform.log_abs_det_jacobian(free[name], values[name])
                extra = jacobian.dim() - log_prob.dim()
                if extra > 0:
                    jacobian = jacobian.flatten(-extra).sum(-1)
                found[name] = log_prob + jacobian
        return found

    return target.map(one, q.to(target.dtype))
