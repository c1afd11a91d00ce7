"""Find the modes of a posterior: search, polish, merge, weigh, name the copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_geo.checks import check, check_count, check_number, check_seed
from pyro_geo.density import Target
from pyro_geo.engine.models import check_model, explained_data
from pyro_geo.infer.modes._climb import Climber
from pyro_geo.infer.modes._search import Search
from pyro_geo.infer.modes._weighing import weigh
from pyro_geo.infer.modes.mode_set import ModeSet

__all__ = ["find_modes"]


def find_modes(
    model: Callable[..., Any] | Target,
    *args: Any,
    num_instances: int = 20,
    pop_size: int = 4000,
    std: float = 1.5,
    polish_steps: int = 100,
    max_rounds: int = 8,
    chance_of_new: float = 0.01,
    merge_distance: float = 1.0,
    min_weight: float = 1e-3,
    max_modes: int = 256,
    num_draws: int = 256,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> ModeSet:
    r"""Find the modes of a posterior, and how much of it lies around each.

    The density is searched in unconstrained space: a population of many
    cross-entropy searches, draws of the prior and normal numbers of several widths
    give starts; all climb at once by L-BFGS and Newton's method, and saddles are
    left. Then starts are also crossed between modes and thrown around them. Rounds go
    on until an estimate of the chance that one more climb ends in a new mode,

    .. math:: \hat c = \frac{\text{modes found once}}{\text{climbs}},

    is small enough, both counted among climbs that end in modes that matter. A mode
    whose basin no start reaches is not found, and nothing in the result can show it;
    `searched` says what was tried.

    Modes closer than `merge_distance` under the Hessians of both are one. Symmetries
    of the density (entries of sites permuted, signs flipped) are looked for and
    verified on it, and copies of modes that they imply are added.

    Args:
        model: an ordinary Pyro model, or a target made before.
        *args: the model's arguments.
        num_instances: cross-entropy searches at once.
        pop_size: population of all of them together; smaller where data are so many
            that only a few positions fit into one evaluation.
        std: standard deviation of the starts in unconstrained space; some are three
            times as far and some a third.
        polish_steps: most steps of each climb before Newton's method.
        max_rounds: most rounds of climbs.
        chance_of_new: estimated chance of a new mode at which the search ends.
        merge_distance: in standard deviations of the modes' Laplace densities.
        min_weight: modes with less than this share of the heaviest one's mass are
            left out.
        max_modes: most modes that are returned, copies included.
        num_draws: draws around each mode that correct its Laplace mass; 0 for none.
        seed: of everything that is random; torch's global state is left alone.
        dtype: floating type of the values handed out, torch's default if None. The
            search itself is in double precision, but for a target made before.
        **kwargs: the model's keyword arguments.

    Returns:
        The modes, the heaviest first. A model without a finite start raises
        :class:`~pyro_geo.errors.InitializationError`, which names the site.

    References:
        Zhang, Jin, Jagersand, Luo and Schuurmans (2022), A simple decentralized
        cross-entropy method, 2212.08235; Good (1953), The population frequencies of
        species and the estimation of population parameters.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     x = pyro.sample("x", dist.Normal(0.0, 3.0))
        ...     pyro.sample("y", dist.Normal(x * x, 0.5), obs=y)
        >>> modes = find_modes(model, torch.tensor(4.0))
        >>> modes.values()["x"].round().sort().values
        tensor([-2.,  2.])
    """
    check_count("num_instances", num_instances)
    check_count("pop_size", pop_size, 2)
    check_seed(seed)
    check_number("std", std, strict=True)
    check_count("polish_steps", polish_steps)
    check_count("max_rounds", max_rounds)
    check_number("chance_of_new", chance_of_new)
    check_number("merge_distance", merge_distance, strict=True)
    check_number("min_weight", min_weight, 0.0, 1.0)
    check_count("max_modes", max_modes)
    check_count("num_draws", num_draws, 0)
    made = isinstance(model, Target)
    check(not (made and (args or kwargs)), "args", len(args), "none with a target")
    if made:
        target, out = model, dtype or model.dtype
    else:
        check_model(model, "find_modes")
        with explained_data(args, kwargs):
            target = Target.from_model(
                model, *args, dtype=torch.float64, compile=False, **kwargs
            )
        out = dtype or torch.get_default_dtype()
    noise = torch.Generator().manual_seed(seed)
    climber = Climber(target, polish_steps)
    search = Search(
        climber,
        num_instances=num_instances,
        pop_size=pop_size,
        std=std,
        merge_distance=merge_distance,
        noise=noise,
    )
    search.run(max_rounds, chance_of_new)
    return weigh(
        search,
        min_weight=min_weight,
        max_modes=max_modes,
        num_draws=num_draws,
        dtype=out,
        seed=seed,
    )
