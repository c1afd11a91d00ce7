"""Pyro's side of the HMC benchmark: its own runner and NUTS, one chain."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from _hmc_common import Run
from pyro.infer import MCMC, NUTS
from pyro.poutine.messenger import Messenger
from torch import Tensor

WARMUP = 500


class ImproperStart(Messenger):
    """Give improper sites a first value, which Pyro's own strategies fail to do."""

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], dist.ImproperUniform) and msg["value"] is None:
            transform = torch.distributions.biject_to(msg["fn"].support)
            shape = transform.inverse_shape(msg["fn"].shape())
            msg["value"] = transform(4.0 * torch.rand(shape) - 2.0)
            msg["done"] = True


class OutOfTimeError(Exception):
    """The seconds allowed are spent."""


class Watch:
    """Keep draws and times as Pyro's runner goes, and stop it in time.

    Args:
        model: the model.
        limit: processor seconds allowed for warm-up and sampling together.
        warmup: steps of warm-up.
    """

    def __init__(self, model: Callable[..., Any], limit: float, warmup: int) -> None:
        self._model = model
        self._started = False
        self._limit = limit
        self._warmup = warmup
        self._begin = clock()
        self.warm: tuple[float, float] | None = None  # when warm-up was over
        self.last = self._begin
        self.positions: list[dict[str, Tensor]] = []
        self.divergences = 0
        self.steps = 0

    def model(self, *args: Any) -> Any:
        """The model; improper sites get values until the first transition is done."""
        if self._started:
            return self._model(*args)
        with ImproperStart():
            return self._model(*args)

    def hook(self, kernel: Any, params: dict[str, Tensor], stage: str, i: int) -> None:
        """Take a transition down."""
        self._started = True
        self.last = clock()
        self.steps += 1
        if stage.startswith("Sample"):
            self.positions.append(dict(params))
            self.divergences = len(kernel.diagnostics()["divergences"])
        elif i == self._warmup - 1:
            self.warm = self.last
        if self.last[0] - self._begin[0] > self._limit:
            raise OutOfTimeError

    def seconds(self) -> dict[str, tuple[float, float]]:
        """Split the time into warm-up, starting included, and sampling."""
        warm = self.warm or self.last
        return {
            "warm-up": (warm[0] - self._begin[0], warm[1] - self._begin[1]),
            "sampling": (self.last[0] - warm[0], self.last[1] - warm[1]),
        }


def run(
    model: Callable[..., Any],
    args: Sequence[Any],
    num_samples: int,
    *,
    dense: bool,
    limit: float,
    seed: int = 0,
    warmup: int = WARMUP,
    **options: Any,
) -> Run:
    """Sample one chain, until it is finished or the time is up.

    Args:
        model: the model.
        args: its arguments, in double precision.
        num_samples: draws.
        dense: whether the metric is dense.
        limit: processor seconds allowed.
        seed: of Pyro's generators.
        warmup: steps of warm-up.
        **options: of NUTS.

    Returns:
        The run, with what was finished in time.
    """
    pyro.set_rng_seed(seed)
    watch = Watch(model, limit, warmup)
    kernel = NUTS(watch.model, full_mass=dense, **options)
    chain = MCMC(
        kernel,
        num_samples,
        warmup_steps=warmup,
        hook_fn=watch.hook,
        disable_progbar=True,
    )
    about = f"{'dense' if dense else 'diagonal'} metric, 1 chain"
    try:
        chain.run(*args)
    except OutOfTimeError:
        about += f", stopped after {limit:g} s"
    count = len(watch.positions)
    failed = None
    if count < 16:
        failed = f"{watch.steps} transitions in {limit:g} s, {warmup} are warm-up"
    transforms: Any = kernel.transforms
    draws = {
        name: transforms[name].inv(stacked(watch.positions, name))
        for name in (watch.positions[0] if count else {})
    }
    return Run(
        {name: value.unsqueeze(0).numpy() for name, value in draws.items()},
        watch.seconds(),
        watch.divergences,
        about,
        failed=failed,
    )


def stacked(positions: list[dict[str, Tensor]], name: str) -> Tensor:
    """Values of one site at all positions."""
    return torch.stack([position[name] for position in positions]).detach()


def clock() -> tuple[float, float]:
    """Read processor seconds and wall."""
    return time.process_time(), time.perf_counter()
