"""Certified deletion from any network, by noisy steps on the retained data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number
from pyro_geo.density import Target
from pyro_geo.density.module import ModuleDensity
from pyro_geo.ops.random import substream
from pyro_geo.unlearning._fresh import Optimizers, fresh_optimizer
from pyro_geo.unlearning._noisy_steps import noisy_steps, plan_steps
from pyro_geo.unlearning._point_fits import (
    place,
    point_target,
    put_back,
    read_masks,
    retained_data,
)
from pyro_geo.unlearning._uncertified import SHARED, uncertified
from pyro_geo.unlearning.certificates import CertifiedDeletion, DeletionCertificate
from pyro_geo.unlearning.training import train_on, with_prior

__all__ = ["Train", "certified_finetune"]

Train = Callable[[torch.nn.Module, Any, tuple[Tensor, ...], torch.Generator], None]
"""Trains a module in place: `train(module, optimizer, retained_data, generator)`."""


def certified_finetune(
    module: torch.nn.Module,
    optimizer: Optimizers | None,
    data: tuple[Tensor, ...],
    forget: Any,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    epsilon: float,
    delta: float,
    prior_precision: float = 0.0,
    centre: Mapping[str, Tensor] | None = None,
    radius: float | None = None,
    noise: float | None = None,
    num_noisy_steps: int = 10,
    gradient_bound: float = 1.0,
    learning_rate: float | None = None,
    decay: float = 0.0,
    blocks: Sequence[Sequence[str]] | None = None,
    num_epochs: int = 10,
    batch_size: int = 64,
    train: Train | None = None,
    seed: int = 0,
) -> CertifiedDeletion:
    r"""Delete data from a network by noisy steps on the retained data.

    1. Project the parameters on a ball around a centre that does not depend on the
       forgotten data, :math:`x_0 = c + \mathrm{clip}_r(\hat\theta - c)`.
    2. Make `T` noisy steps with clipped gradients of the retained data,
       :math:`x_{t+1} = x_t - \gamma\,\mathrm{clip}_C(\nabla L_R) -
       \gamma\lambda(x_t - c) + \sigma \xi_t`.
    3. Make the optimiser anew, and train with it on the retained data. Its memory
       holds gradients of the retained data at noisy parameters, so that parameters
       and memory are functions of what step 2 left and of the retained data.

    The noise hides two starts anywhere in the ball, whatever the loss is. With epsilon
    around 1 it hides what the old training has found as well, in a network of more than
    a few parameters: expect about the cost of a new training.

    With `blocks`, the steps are made on one block of parameters after the other while
    the rest is held. The noise is the same; a gradient is evaluated with less of it.

    Args:
        module: trained on all data, without buffers; it is copied.
        optimizer: that trained it, or a function that makes one of parameters. None to
            release parameters alone.
        data: inputs of the module, and the targets last.
        forget: rows to forget, as indices or a mask.
        loss: `loss(outputs, targets)`, one value for each datum.
        epsilon: of the certificate.
        delta: of the certificate.
        prior_precision: of a normal prior on the parameters, whose part in the mean
            loss is its minus log divided by the number of retained data.
        centre: parameters by name that do not depend on the forgotten data; fresh ones,
            as the layers draw them from `seed`, if None.
        radius: of the ball.
        noise: standard deviation of the sum of all noise; a tenth of the root mean
            square of the centre if neither it nor the radius is given. One of the two
            follows from the other.
        num_noisy_steps: `T`.
        gradient_bound: `C`, of the gradient of the mean loss of a batch, with the
            part of the prior.
        learning_rate: of the noisy steps; such that their gradients move as far as the
            radius together, if None.
        decay: :math:`\lambda`, towards the centre.
        blocks: names of parameters, every one in one block.
        num_epochs: over the retained data in step 3.
        batch_size: of noisy steps and epochs.
        train: does step 3 in place of epochs over batches, a prior included.
        seed: of the noise, the centre and the batches; keep it secret.

    Returns:
        Module, optimiser and certificate.

    References:
        Koloskova et al. (2025), Certified unlearning for neural networks, 2506.06985;
        Dolgova and Stich (2026), Sequential subspace noise injection prevents accuracy
        collapse in certified unlearning, 2601.05134, for the blocks.

    Example:
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> net = torch.nn.Linear(1, 1)
        >>> adam = torch.optim.Adam(net.parameters())
        >>> result = certified_finetune(
        ...     net,
        ...     adam,
        ...     (x, 2 * x),
        ...     [0],
        ...     epsilon=1.0,
        ...     delta=1e-5,
        ...     num_epochs=1,
        ...     loss=lambda f, y: (f - y).square().sum(-1),
        ... )
        >>> print(result.certificate.text.splitlines()[0])
        (1, 1e-05)-certified deletion.
    """
    check_count("num_noisy_steps", num_noisy_steps)
    check_count("num_epochs", num_epochs, 0)
    check_count("batch_size", batch_size)
    check_number("gradient_bound", gradient_bound, strict=True)
    check_number("decay", decay)
    check_number("prior_precision", prior_precision)
    check_number("learning_rate", learning_rate)
    check(radius is None or noise is None, "noise", noise, "None where radius is given")
    _check_memoryless(module)
    target = point_target(module, data, loss, 0.0)
    retained = retained_data(data, read_masks(forget, target))
    old = place(target, module, None)
    middle = _centre(target, centre, seed)
    plan = plan_steps(
        target,
        epsilon,
        delta,
        size=float(middle.square().mean().sqrt()),
        radius=radius,
        noise=noise,
        num_steps=num_noisy_steps,
        bound=gradient_bound,
        learning_rate=learning_rate,
        decay=decay,
        blocks=blocks,
    )
    kept = point_target(module, retained, loss, prior_precision)
    noised = noisy_steps(kept, old, middle, plan, batch_size, substream(seed, 1))
    new = put_back(target, module, None, noised)
    made = fresh_optimizer(
        optimizer, dict(module.named_parameters()), dict(new.named_parameters())
    )
    generator = torch.Generator().manual_seed(substream(seed, 2))
    if train is not None:
        train(new, made, retained, generator)
    elif made is not None:
        train_on(
            new,
            made,
            retained,
            with_prior(loss, new, prior_precision, len(retained[0])),
            num_epochs=num_epochs,
            batch_size=batch_size,
            seed=generator,
        )
    losses = [_loss(kept, q) for q in (old, noised, place(target, new, None))]
    covers = ("parameters",) if made is None else ("parameters", "optimiser's memory")
    certificate = DeletionCertificate(
        epsilon=epsilon,
        delta=delta,
        separation=plan.separation,
        mechanism="projection on a ball, noisy steps on retained data, and training "
        "on retained data by an optimiser made anew",
        covers=covers,
        assumptions=(
            *SHARED,
            "The centre of the ball does not depend on the forgotten data."
            if centre is not None
            else "The centre of the ball was drawn without any data.",
            "Training after the noise reads the retained data, its own random numbers "
            "and the noisy parameters, and nothing else.",
        ),
        settings=plan.settings(),
    )
    citations = "certified_finetuning", "shifted_interpolation", "gaussian_mechanism"
    if blocks is not None:
        citations = (*citations, "subspace_noise")
    return CertifiedDeletion(
        new, made, certificate, (losses[0], losses[1], losses[2]), citations
    )


def _check_memoryless(module: torch.nn.Module) -> None:
    """Refuse buffers, such as running statistics, which remember data too."""
    buffers = [name for name, _ in module.named_buffers()]
    if buffers:
        uncertified(f"buffers {buffers[:4]}", "parameters alone", "argument module")


def _centre(target: Target, centre: Mapping[str, Tensor] | None, seed: int) -> Tensor:
    if centre is not None:
        return place(target, None, centre)
    density = target.density
    assert isinstance(density, ModuleDensity)
    generator = torch.Generator().manual_seed(substream(seed, 0))
    with torch.no_grad():
        return density.fresh_starts(1, generator)[0].to(target.device, target.dtype)


def _loss(target: Target, q: Tensor) -> float:
    with torch.no_grad():
        return -float(target.log_prob(q[None]))
