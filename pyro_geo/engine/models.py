"""What may stand in place of a model, and what it is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.mcmc.api import AbstractMCMC
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_geo.checks import check
from pyro_geo.density import Layout, Site, Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.structure import first_line
from pyro_geo.errors import ConfigurationError, ModelError
from pyro_geo.results import PosteriorDraws

__all__ = [
    "check_kernel",
    "check_model",
    "data_notes",
    "explained_data",
    "layout_of_values",
    "name_of",
    "title_of",
]


def check_model(model: object, owner: str) -> None:
    """Refuse what cannot be sampled, and say what to type instead.

    Args:
        model: what stands in place of a model.
        owner: name of the kernel, for the message.

    Raises:
        ConfigurationError: it is neither callable nor a target, or it is a class, a
            kernel, a result, a guide or a distribution.

    Example:
        >>> check_model(lambda: None, "HMC")
    """
    found, todo = _refusal(model, owner)
    if todo:
        raise ConfigurationError(
            "this is no model",
            where=f"{owner}, argument model",
            found=found,
            expected="a function with pyro.sample statements, a PyroModule or a Target",
            todo=todo,
        )


def _refusal(model: object, owner: str) -> tuple[str, str]:
    """What was passed and what to type instead; the latter empty for a good model."""
    kind = type(model).__name__
    if isinstance(model, type):
        name = model.__name__
        return f"the class {name}", f"Pass an instance: {owner}({name}(...))."
    if isinstance(model, MCMCKernel):
        return f"a kernel, {kind}", f"Pass its model: {owner}(kernel.model)."
    if isinstance(model, (PosteriorDraws, AbstractMCMC)):
        todo = f"Pass the model that was sampled: {owner}(model)."
        return f"a result, {kind}", todo
    if isinstance(model, AutoGuide):
        return f"a guide, {kind}", f"Pass its model: {owner}(guide.model)."
    if isinstance(model, Distribution):
        todo = "Sample it in a function: def model(): pyro.sample('x', ...)."
        return f"a distribution, {kind}", f"{todo} Then {owner}(model)."
    if isinstance(model, torch.nn.Module) and not _may_sample(model):
        todo = f"Pass {owner}(Target.from_module(module, loss, (x, y))) and run()."
        return f"a module without sample statements, {kind}", todo
    if isinstance(model, Target) or callable(model):
        return "", ""
    found = repr(model)[:50] if model is None or isinstance(model, str) else kind
    todo = f"Pass the function itself, {owner}(model), and its arguments to run."
    return found, todo


def _may_sample(module: torch.nn.Module) -> bool:
    """Whether a module can have sample statements: torch's own layers have none."""
    own = (type(layer).__module__ for layer in module.modules())
    return not all(name.startswith("torch.nn.") for name in own)


def check_kernel(kernel: object, known: type) -> None:
    """Refuse what is no kernel, and say what to type instead.

    Args:
        kernel: what stands in place of a kernel.
        known: base class of the kernels that can be run.

    Raises:
        ConfigurationError: it is no such kernel.
    """
    if isinstance(kernel, known):
        return
    found, todo = type(kernel).__name__, "Pass MCMC(HMC(model), ...)."
    if isinstance(kernel, type):
        found = f"the class {kernel.__name__}"
        if issubclass(kernel, known):
            todo = f"Pass an instance: MCMC({kernel.__name__}(model), ...)."
    elif isinstance(kernel, MCMCKernel):
        found = f"Pyro's own kernel {found}"
        todo = "Import HMC from pyro_geo.infer and pass MCMC(HMC(model), ...)."
    elif isinstance(kernel, Target) or callable(kernel):
        found = f"a model, {name_of(kernel)}"
        todo = f"Pass a kernel on it: MCMC(HMC({name_of(kernel)}), ...)."
    raise ConfigurationError(
        "this is no kernel",
        where="MCMC, argument kernel",
        found=found,
        expected="HMC(model), DIMS(model) or another pyro_geo.engine.Kernel",
        todo=todo,
    )


def name_of(model: Any) -> str:
    """Name of a model, for the record of a run.

    Args:
        model: a function, a module, a target or any other callable.

    Returns:
        The name of the function inside, or that of the type.

    Example:
        >>> def eight_schools(scale): ...
        >>> name_of(functools.partial(eight_schools, scale=2.0))
        'eight_schools'
    """
    while isinstance(model, functools.partial) and not hasattr(model, "__name__"):
        model = model.func
    return getattr(model, "__name__", type(model).__name__)


def title_of(model: Any) -> str:
    """Name of a model for the title of a page: a file's, where the function has none.

    Models of files are often called `model`, which tells nothing in a title.

    Args:
        model: as in :func:`name_of`.

    Returns:
        Its name, or the name of the file that defines a function called `model`.

    Example:
        >>> def model(): ...
        >>> title_of(model)  # typed in, not in a file
        'model'
    """
    name = name_of(model)
    while isinstance(model, functools.partial):
        model = model.func
    code = getattr(inspect.unwrap(model), "__code__", None)
    if code is None or not name == code.co_name == "model":  # a handler's is another's
        return name
    file = Path(code.co_filename)
    # cells of a notebook lie in files with numbers for names
    written = file.is_file() and file.stem.isidentifier()
    return file.stem if written and "ipykernel" not in str(file.parent) else name


# -- data ------------------------------------------------------------------------------


_TENSORS = "tensors of floats, or a model that makes tensors of its data"


@contextmanager
def explained_data(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Say what to type where a model fails on data that are no tensors.

    A model may take arrays and turn them into tensors itself, so that only its failure
    tells. Errors on data of tensors pass as they are.

    Args:
        args: the model's arguments.
        kwargs: the model's keyword arguments.

    Raises:
        ModelError: the model failed, and some of its data are empty, are arrays, data
            frames or lists of numbers, or integers where floats are needed.
    """
    try:
        yield
    except Exception as reason:  # a model may raise anything
        named = {**{str(i + 1): x for i, x in enumerate(args)}, **kwargs}
        found = {name: kind for name, x in named.items() if (kind := _empty(x))}
        if not found:
            found = {name: kind for name, x in named.items() if (kind := _foreign(x))}
        # torch's words where it refuses integers and truth values
        mixed = any(word in str(reason) for word in ("dtype", "bool tensor"))
        if not found and isinstance(reason, (RuntimeError, ModelError)) and mixed:
            found = {name: kind for name, x in named.items() if (kind := _integers(x))}
        if not found or isinstance(reason, Warning):
            raise
        name, (kind, expected, todo) = next(iter(found.items()))
        raise ModelError(
            "the model fails on these data",
            where=f"argument {name} of the model",
            found=f"{kind}; {type(reason).__name__}: {first_line(reason)}",
            expected=expected,
            todo=todo,
        ) from reason


def _empty(value: Any) -> tuple[str, str, str] | None:
    shape = getattr(value, "shape", None)
    if isinstance(value, (list, tuple)):
        shape = (len(value),)
    if isinstance(shape, tuple) and shape[:1] == (0,):
        return (
            f"shape {tuple(shape)}",
            "at least one row",
            "Pass data that are not empty.",
        )
    return None


def _foreign(value: Any) -> tuple[str, str, str] | None:
    """Kind of data that are no tensors, what they should be, and what to type."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"a NumPy {kind}", _TENSORS, "Pass torch.as_tensor(x)."
    if type(value).__module__.partition(".")[0] in ("pandas", "xarray", "polars"):
        return f"a {kind}", _TENSORS, "Pass torch.tensor(x.to_numpy())."
    numbers = isinstance(value, (list, tuple)) and value
    if numbers and all(isinstance(x, (int, float)) for x in value):
        return f"a {kind} of numbers", _TENSORS, "Pass torch.tensor(x)."
    return None


def _integers(value: Any) -> tuple[str, str, str] | None:
    if isinstance(value, Tensor) and not value.is_floating_point():
        todo = "Pass x.float(), or convert in the model."
        return f"a tensor of {value.dtype}", _TENSORS, todo
    return None


def data_notes(target: Target) -> list[str]:
    """Note that a model has seen no data, as where they were left out of `run`.

    Args:
        target: the density.

    Returns:
        At most one note.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> target = Target.from_model(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)))
        >>> data_notes(target)
        ['No site is observed: these are draws of the prior.']
    """
    density = target.density
    if not isinstance(density, ModelDensity) or density.has_data:
        return []
    return ["No site is observed: these are draws of the prior."]


# -- potential functions ---------------------------------------------------------------


def layout_of_values(
    values: Mapping[str, Tensor], transforms: Mapping[str, Any]
) -> Layout:
    """Lay the sites of a potential function out by values that come with it.

    Args:
        values: constrained values, site to tensor.
        transforms: site to the map from constrained to unconstrained values, as Pyro
            has them.

    Returns:
        The layout, sites in the order given. A transform of a site that has no value
        is a :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> layout_of_values({"x": torch.zeros(2), "y": torch.zeros(())}, {}).dim
        3
    """
    unknown = sorted(set(transforms) - set(values))
    check(not unknown, "transforms", unknown, f"sites among {list(values)}")
    sites: dict[str, Site] = {}
    start = 0
    for name, value in values.items():
        # Pyro's transforms lead to unconstrained values, those of a site from them
        transform = torch.distributions.biject_to(constraints.real)
        if name in transforms:
            transform = transforms[name].inv
        constrained = torch.Size(np.shape(value))
        shape = torch.Size(transform.inverse_shape(constrained))
        sites[name] = Site(name, start, shape, constrained, transform)
        start += shape.numel()
    return Layout(sites)
