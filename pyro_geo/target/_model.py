"""A Pyro model and its data as a log-density of one flat position."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_geo.errors import (
    ConfigurationError,
    ModelError,
    ShapeError,
    UnsupportedModelError,
    explain,
)
from pyro_geo.target._density import (
    Data,
    Observation,
    Terms,
    cast,
    private_randomness,
)
from pyro_geo.target._layout import Layout
from pyro_geo.target._modes import DensityMode, default_dtype
from pyro_geo.target._structure import (
    check_same_layout,
    dims_of,
    layout_of,
    random_sites,
)

__all__ = ["ModelDensity"]


@contextmanager
def evaluation_mode(dtype: torch.dtype) -> Iterator[None]:
    """Run a model without validation, in `dtype`, with failures kept to their chain."""
    with default_dtype(dtype), pyro.validation_enabled(False), DensityMode():
        yield


class _SiteStart(Messenger):
    """Give every site randomness of its own, and improper ones a value.

    Seeded by name, so that starts do not depend on the order of the sites.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _pyro_sample(self, msg: Any) -> None:
        torch.manual_seed(self.seed ^ zlib.crc32(msg["name"].encode()))
        if isinstance(msg["fn"], dist.ImproperUniform) and msg["value"] is None:
            transform = torch.distributions.biject_to(msg["fn"].support)
            shape = transform.inverse_shape(msg["fn"].shape())
            msg["value"] = transform(4 * torch.rand(shape) - 2)
            msg["done"] = True


def _unvalidated(fn: Any) -> Any:
    """Copy a distribution so that neither it nor its base checks values.

    One that was built while validation was on, as the priors of a `PyroModule` are,
    keeps checking; a check branches on the value and cannot be mapped.

    Returns:
        The distribution itself where nothing checks.
    """
    old = getattr(fn, "base_dist", None)
    base = None if old is None else _unvalidated(old)
    if base is old and not getattr(fn, "_validate_args", False):
        return fn
    fn = copy.copy(fn)
    if base is not None:
        fn.base_dist = base  # first: Pyro's Independent sets the flag of its base
    fn._validate_args = False
    return fn


class _Slot:
    """Place of a tensor among the arguments of a model."""

    def __repr__(self) -> str:
        return "tensor"

    @classmethod
    def of(cls, leaf: Any) -> Any:
        return cls() if isinstance(leaf, Tensor) else leaf


class ModelDensity:
    """Density of a Pyro model's latent sites, given by name, at fixed arguments."""

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        dtype: torch.dtype,
    ) -> None:
        self.model = model
        self.dtype = dtype
        arguments = (args, dict(sorted(kwargs.items())))
        # kept as a tree because tree specifications warn when they are unpickled
        self._blank = pytree.tree_map(_Slot.of, arguments)
        leaves = pytree.tree_leaves(arguments)
        data = cast([x for x in leaves if isinstance(x, Tensor)], dtype)
        first, second = self.prior_trace(data, 0), self.prior_trace(data, 1)
        self.layout: Layout = layout_of(first)
        check_same_layout(self.layout, layout_of(second))
        self.latents = frozenset(self.layout.sites)
        sites = random_sites(first)
        self.dims = {name: dims_of(name, site) for name, site in sites.items()}
        self.coords = {
            frame.name: range(frame.size)
            for site in sites.values()
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        }
        self._check_deterministic(data)

    def prior_trace(
        self,
        data: Data,
        seed: int,
        init_fn: Callable[..., Any] | None = None,
    ) -> poutine.Trace:
        """Trace the model once with its own randomness, or with `init_fn`'s values."""
        args, kwargs = self._arguments(data)
        # innermost, so that no strategy samples what cannot be sampled
        model = _SiteStart(seed)(self.model)
        if init_fn is not None:
            model = InitMessenger(init_fn)(model)
        with torch.no_grad(), private_randomness(seed), evaluation_mode(self.dtype):
            return poutine.trace(model).get_trace(*args, **kwargs)

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the tensors out of new arguments, which otherwise are as they were.

        Returns:
            The tensors in the order of the arguments.

        Raises:
            ShapeError: the arguments have another structure.
            ConfigurationError: an argument that is no tensor differs.
        """
        arguments = (args, dict(sorted(kwargs.items())))
        old_leaves, old_tree = pytree.tree_flatten(self._blank)
        leaves, tree = pytree.tree_flatten(arguments)
        kinds = [isinstance(x, Tensor) for x in leaves]
        if tree != old_tree or kinds != [isinstance(x, _Slot) for x in old_leaves]:
            raise ShapeError(
                explain(
                    "new arguments are not built like the old",
                    where="arguments of with_data",
                    found=str(pytree.tree_map(_Slot.of, arguments)),
                    expected=str(self._blank),
                    todo="Pass them in the way they were passed to from_model.",
                )
            )
        for old, new in zip(old_leaves, leaves, strict=True):
            if not isinstance(new, Tensor) and not _same(old, new):
                raise ConfigurationError(
                    explain(
                        "only tensors can be replaced",
                        where="arguments of with_data",
                        found=repr(new)[:100],
                        expected=repr(old)[:100],
                        todo="Make a new target, or pass the number as a tensor.",
                    )
                )
        return tuple(x for x in leaves if isinstance(x, Tensor))

    def check_data(self, data: Data) -> None:
        """Refuse new data under which sites, shapes or supports are other ones."""
        layout = layout_of(self.prior_trace(data, 0))
        check_same_layout(self.layout, layout, "with the data")

    def conditioned(
        self, values: Mapping[str, Tensor], data: Data
    ) -> Iterator[tuple[str, Any]]:
        """Sites of the model whose latent ones are set to constrained values."""
        args, kwargs = self._arguments(data)
        model = poutine.condition(self.model, data=dict(values))
        sites = random_sites(poutine.trace(model).get_trace(*args, **kwargs))
        stray = [
            name
            for name, site in sites.items()
            if name not in self.latents and not site["is_observed"]
        ]
        if stray or not self.latents <= set(sites):
            name = (stray or sorted(self.latents - set(sites)))[0]
            raise ModelError(
                explain(
                    "the model's latent sites changed between runs",
                    where=f"site {name!r}",
                    found="a site that comes or goes with the values of others",
                    expected=f"always {sorted(self.latents)}",
                    todo="Write the choice with torch.where or a mask instead of if.",
                )
            )
        for name, site in sites.items():
            site["fn"] = _unvalidated(site["fn"])
            yield name, site

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior (with log-Jacobians) and log-likelihood of `q`, `(dim,)`."""
        with evaluation_mode(self.dtype):
            values, log_prior = self.layout.constrain_with_jacobian(q)
            log_likelihood = q.new_zeros(())
            for name, log_prob in self._site_log_probs(values, data).items():
                if name in self.latents:
                    log_prior = log_prior + log_prob
                else:
                    log_likelihood = log_likelihood + log_prob
        return Terms(log_prior, log_likelihood)

    def site_log_probs(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-probability of each site at `q`, scaled and masked, no Jacobians."""
        with evaluation_mode(self.dtype):
            return self._site_log_probs(self.layout.constrain(q), data)

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum by observed site; masked ones are zero."""
        with evaluation_mode(self.dtype):
            return {
                name: scale_and_mask(site.fn.log_prob(site.value), 1.0, site.mask)
                for name, site in self._observations(self.layout.constrain(q), data)
            }

    def observations(self, q: Tensor, data: Data) -> dict[str, Observation]:
        """Distribution, value, scale and mask of every observed site at `q`."""
        with evaluation_mode(self.dtype):
            return dict(self._observations(self.layout.constrain(q), data))

    def deterministics(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Values of the `pyro.deterministic` sites at `q`."""
        with evaluation_mode(self.dtype):
            return {
                name: site["value"]
                for name, site in self.conditioned(self.layout.constrain(q), data)
                if site["infer"].get("_deterministic")
            }

    def _arguments(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tensors = iter(data)
        return pytree.tree_map(
            lambda leaf: next(tensors) if isinstance(leaf, _Slot) else leaf, self._blank
        )

    def _site_log_probs(
        self, values: Mapping[str, Tensor], data: Data
    ) -> dict[str, Tensor]:
        return {
            name: scale_and_mask(
                site["fn"].log_prob(site["value"]), site["scale"], site["mask"]
            ).sum()
            for name, site in self.conditioned(values, data)
            if not site["infer"].get("_deterministic")
        }

    def _observations(
        self, values: Mapping[str, Tensor], data: Data
    ) -> Iterator[tuple[str, Observation]]:
        for name, site in self.conditioned(values, data):
            if name in self.latents or site["infer"].get("_deterministic"):
                continue
            parts = (site[key] for key in ("fn", "value", "scale", "mask"))
            yield name, Observation(*parts)

    def _check_deterministic(self, data: Data) -> None:
        """Refuse a model that draws random numbers outside its sample statements."""
        device = data[0].device if data else None
        q = torch.full((self.layout.dim,), 0.1, dtype=self.dtype, device=device)
        with torch.no_grad(), private_randomness(2):
            first = self.site_log_probs(q, data)
            second = self.site_log_probs(q, data)
        for name, value in first.items():
            if not torch.equal(value.nan_to_num(), second[name].nan_to_num()):
                raise UnsupportedModelError(
                    explain(
                        "the model draws random numbers of its own",
                        where=f"site {name!r}",
                        found="two log-probabilities at one position",
                        expected="a density that depends on the latent sites alone",
                        todo="Move the random operation into a sample statement.",
                    )
                )


def _same(old: Any, new: Any) -> bool:
    return old is new or (type(old) is type(new) and bool(np.all(old == new)))
