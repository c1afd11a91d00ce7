"""NumPyro's side of the HMC benchmark: NUTS with vectorised chains, x64, one thread.

NumPyro's own kernel, called as its `MCMC` class calls it, in one compiled loop that
serves warm-up and sampling. The class itself compiles its loop again in every `run`,
which would hide how fast the kernel is: on these models compiling takes longer than
sampling.
"""

import importlib
import os
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from _hmc_common import Run

# XLA reads them when it starts: one thread, as on our side
FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("XLA_FLAGS", FLAGS)

# Peers of the `bench` extra: not there where only `dev` is installed.
jax: Any = importlib.import_module("jax")
jnp: Any = importlib.import_module("jax.numpy")
infer: Any = importlib.import_module("numpyro.infer")
jax.config.update("jax_enable_x64", True)

WARMUP = 1000


class Sampler(NamedTuple):
    """A compiled loop over transitions and what it starts from.

    Attributes:
        start: first state of all chains for a seed.
        loop: makes so many transitions, keeping up to `num_samples` of them.
        constrain: turns kept positions into the model's own space.
        seconds: processor and wall seconds spent on tracing and compiling.
        about: the settings.
    """

    start: Callable[[int], Any]
    loop: Callable[..., Any]
    constrain: Callable[..., Any]
    seconds: tuple[float, float]
    about: str


def as_arrays(data: dict[str, Any]) -> dict[str, Any]:
    """Hand arrays to JAX, leave counts alone."""
    return {
        key: jnp.asarray(value) if isinstance(value, np.ndarray) else value
        for key, value in data.items()
    }


def compile_sampler(
    model: Callable[[], None],
    num_chains: int,
    num_samples: int,
    *,
    dense: bool,
    warmup: int = WARMUP,
    **options: Any,
) -> Sampler:
    """Compile NUTS for one model.

    Args:
        model: of no arguments.
        num_chains: side by side.
        num_samples: draws per chain.
        dense: whether the metric is dense.
        warmup: steps of adaptation.
        **options: of NUTS.

    Returns:
        The compiled sampler.
    """
    before = clock()

    def fresh(seed: int) -> tuple[Any, Any]:
        kernel = infer.NUTS(model, dense_mass=dense, **options)
        keys = jax.random.split(jax.random.PRNGKey(seed), num_chains)
        return kernel, kernel.init(keys, warmup, None, (), {})

    kernel, state = fresh(0)
    kept = (state.z, state.diverging, state.num_steps)

    def loop(state: Any, count: Any) -> Any:
        """Make `count` transitions; the last `num_samples` stay in the buffers."""

        def body(i: Any, carry: Any) -> Any:
            state, buffers = carry
            state = kernel.sample(state, (), {})
            new = (state.z, state.diverging, state.num_steps)
            buffers = jax.tree.map(
                lambda buffer, x: buffer.at[i % num_samples].set(x), buffers, new
            )
            return state, buffers

        buffers = jax.tree.map(
            lambda x: jnp.zeros((num_samples, *x.shape), x.dtype), kept
        )
        return jax.lax.fori_loop(0, count, body, (state, buffers))

    compiled = jax.jit(loop).lower(state, jnp.asarray(0)).compile()
    each = jax.vmap(jax.vmap(kernel.postprocess_fn((), {})))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num_samples, *x.shape), x.dtype), state.z
    )
    constrain = jax.jit(each).lower(shapes).compile()
    metric = "dense" if dense else "diagonal"
    return Sampler(
        lambda seed: fresh(seed)[1],
        compiled,
        constrain,
        since(before),
        f"{metric} metric, {num_chains} chains",
    )


def sample(
    sampler: Sampler,
    num_samples: int,
    seed: int,
    warmup: int = WARMUP,
    names: Collection[str] | None = None,
) -> Run:
    """Warm up and sample.

    Args:
        sampler: compiled for as many draws.
        num_samples: draws per chain.
        seed: of the run.
        warmup: steps of adaptation, as compiled for.
        names: sites whose draws are wanted; None for those that are sampled.

    Returns:
        The run; constraining the draws belongs to the sampling.
    """
    state = jax.block_until_ready(sampler.start(seed))
    before = clock()
    state, _ = jax.block_until_ready(sampler.loop(state, jnp.asarray(warmup)))
    warm = since(before)
    before = clock()
    _, (z, diverging, _) = sampler.loop(state, jnp.asarray(num_samples))
    draws = jax.block_until_ready(sampler.constrain(z))
    spent = since(before)
    sites = set(z if names is None else names)
    return Run(
        {
            name: np.asarray(value).swapaxes(0, 1)
            for name, value in draws.items()
            if name in sites
        },
        {"warm-up": warm, "compilation": sampler.seconds, "sampling": spent},
        int(diverging.sum()),
        sampler.about,
    )


def samplers(
    model: Callable[[], None],
    num_chains: int,
    num_samples: int,
    quick: bool,
    *,
    warmup: int = WARMUP,
    **options: Any,
) -> dict[str, Callable[[int], Run]]:
    """Compile a sampler for either metric, in a quick run for one.

    Args:
        model: of no arguments.
        num_chains: side by side.
        num_samples: draws per chain.
        quick: one metric is enough.
        warmup: steps of adaptation.
        **options: of NUTS.

    Returns:
        Runs as functions of the seed, by setting.
    """
    runs = {}
    for dense in (False,) if quick else (True, False):
        sampler = compile_sampler(
            model, num_chains, num_samples, dense=dense, warmup=warmup, **options
        )
        runs[sampler.about] = partial(sample, sampler, num_samples, warmup=warmup)
    return runs


def clock() -> tuple[float, float]:
    """Read processor seconds, those of all threads, and wall."""
    return time.process_time(), time.perf_counter()


def since(before: tuple[float, float]) -> tuple[float, float]:
    """Seconds since then."""
    cpu, wall = clock()
    return cpu - before[0], wall - before[1]
