"""A network of states as a module of Pyro's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from pyro.nn import PyroModule, pyro_method
from torch import Tensor

from pyro_geo.checks import check, check_choice
from pyro_geo.errors import HGFGraphError
from pyro_geo.filtering.hgf.network.data import Data, NanPolicy, network_inputs
from pyro_geo.filtering.hgf.network.distribution import NetworkDistribution
from pyro_geo.filtering.hgf.network.graph import (
    Coupling,
    Edge,
    Graph,
    Input,
    InputKind,
    build_graph,
)
from pyro_geo.filtering.hgf.network.numbers import precision_key, read_parameters
from pyro_geo.filtering.hgf.network.run import NetworkBackend, run_network
from pyro_geo.filtering.hgf.network.trajectory import NetworkState, NetworkTrajectory
from pyro_geo.filtering.hgf.parameters import Predictive, Update
from pyro_geo.filtering.hgf.run import OnInvalid

__all__ = ["HGFNetwork"]

Function = Callable[[Tensor], Tensor]


class HGFNetwork(PyroModule):
    r"""Hierarchical Gaussian filter over any network of states without a cycle.

    .. math::
        x_a \sim \mathrm N\Bigl(\lambda_a x_a' + t \bigl(\rho_a + \sum_b \psi_{ab}
        g_{ab}(x_b)\bigr),\; t \exp\bigl(\omega_a + \sum_c \kappa_{ac} x_c\bigr)\Bigr)

    A state may have several parents of both couplings, and a parent several children
    of both. For one chain of levels :func:`~pyro_geo.filtering.hgf.filter.hgf_filter`
    gives the same numbers.

    Every number may be a float, a tensor whose batch broadcasts with that of the data,
    a `PyroParam` or a `PyroSample`; sites are named by state, as in `level.omega`,
    `level.kappa_volatility` for the strength of a volatility parent and
    `level.psi_trend` for that of a value parent.

    Call it with data for the trajectory; inside a Pyro model observe
    :meth:`distribution`, whose method `trajectory` takes the same parameters on to a
    model of responses. The graph is checked when it is first used.

    Args:
        update: rule for volatility parents: "unbounded" never fails; "classic",
            "ehgf" and "ehgf_pyhgf" are those of other toolboxes, "moment" an exact
            projection by quadrature.
        predictive: "input" for the density of inputs; "state" leaves their noise out,
            as other toolboxes do.
        backend: "auto" for compiled loops where they can be, with two derivatives;
            "torch" for operations of torch, with as many as are asked for.

    References:
        The generalized Hierarchical Gaussian Filter (arXiv 2305.10937); Robust
        volatility updates for Hierarchical Gaussian Filtering (arXiv 2605.00966).
        Several volatility children by the unbounded rule: derived.

    Example:
        >>> network = HGFNetwork()
        >>> for side in ("left", "right"):
        ...     shared = {"volatility": 1.0}
        ...     _ = network.add_state(side, omega=-3.0, volatility_parents=shared)
        ...     _ = network.observe(side, input_precision=4.0)
        >>> _ = network.add_state("volatility", omega=-4.0)
        >>> found = network({"left": torch.ones(5), "right": torch.zeros(5)})
        >>> found.mu["volatility"].shape, found.surprise.shape
        (torch.Size([5]), torch.Size([5]))
    """

    citations = ("ghgf", "unbounded_hgf")

    def __init__(
        self,
        *,
        update: Update = "unbounded",
        predictive: Predictive = "input",
        backend: NetworkBackend = "auto",
    ) -> None:
        check_choice(
            "update", update, ("unbounded", "classic", "ehgf", "ehgf_pyhgf", "moment")
        )
        check_choice("predictive", predictive, ("input", "state"))
        check_choice("backend", backend, ("auto", "torch"))
        super().__init__()
        self.update: Update = update
        self.predictive: Predictive = predictive
        self.backend: NetworkBackend = backend
        self._states: list[str] = []
        self._edges: list[Edge] = []
        self._inputs: list[Input] = []
        self._graph: Graph | None = None

    def add_state(
        self,
        name: str,
        *,
        omega: Any,
        drift: Any = 0.0,
        autoconnection: Any = 1.0,
        mu0: Any = 0.0,
        pi0: Any = 1.0,
        value_parents: Mapping[str, Any] | None = None,
        volatility_parents: Mapping[str, Any] | None = None,
    ) -> Self:
        r"""Add a state; its parents may be added later.

        Args:
            name: a Python identifier; the numbers are attributes under it.
            omega: tonic log-volatility.
            drift: :math:`\rho` in each unit of time.
            autoconnection: :math:`\lambda`, 1 for a random walk.
            mu0: mean before the first step.
            pi0: precision before the first step.
            value_parents: strength :math:`\psi` by name of the parent, or the pair of
                the strength and a function :math:`g` of each element.
            volatility_parents: strength :math:`\kappa` by name of the parent.

        Returns:
            The network.

        Raises:
            HGFGraphError: the name is there already, or is no attribute's.
        """
        taken = name in self._states or hasattr(self, name)
        if taken or not name.isidentifier():
            raise HGFGraphError(
                "name of a state is taken" if taken else "name is no identifier",
                where="add_state",
                found=repr(name),
                expected="an identifier that the network does not have",
                todo="Choose another name.",
            )
        setattr(self, name, PyroModule(name))
        self._states.append(name)
        self._graph = None
        numbers = {
            "omega": omega,
            "drift": drift,
            "autoconnection": autoconnection,
            "mu0": mu0,
            "pi0": pi0,
        }
        for key, value in numbers.items():
            self._set(name, key, value)
        for parent, given in (value_parents or {}).items():
            strength, function = given if isinstance(given, tuple) else (given, None)
            self.connect(name, parent, "value", strength, function=function)
        for parent, strength in (volatility_parents or {}).items():
            self.connect(name, parent, "volatility", strength)
        return self

    def connect(
        self,
        child: str,
        parent: str,
        coupling: Coupling,
        strength: Any = 1.0,
        *,
        function: Function | None = None,
    ) -> Self:
        """Add an edge; the parent may be added later.

        Args:
            child: name of a state that is there.
            parent: name of the state that drives it.
            coupling: "value" or "volatility".
            strength: of the coupling.
            function: what a value parent's state goes through, of each element, twice
                differentiable; None for the state itself.

        Returns:
            The network.

        Raises:
            HGFGraphError: the child is unknown, or has the edge already.
        """
        check_choice("coupling", coupling, ("value", "volatility"))
        linear = function is None or coupling == "value"
        check(linear, "function", function, "None for a volatility parent")
        self._known(child)
        found = [(edge.child, edge.parent, edge.coupling) for edge in self._edges]
        if (child, parent, coupling) in found:
            raise HGFGraphError(
                "edge twice",
                where=f"state {child}",
                found=f"{coupling} parent {parent}",
                expected="each edge once",
                todo="Add the two strengths.",
            )
        self._edges.append(Edge(child, parent, coupling, function))
        self._graph = None
        self._set(
            child, f"{'psi' if coupling == 'value' else 'kappa'}_{parent}", strength
        )
        return self

    def observe(
        self,
        state: str,
        kind: InputKind = "continuous",
        *,
        input_precision: Any = None,
        name: str | None = None,
    ) -> Self:
        """Observe a state; one that is observed twice needs a second name.

        Args:
            state: name of a state that is there.
            kind: "continuous" for the state with Gaussian noise, "binary" for a coin
                whose log-odds are the state.
            input_precision: of the noise of a continuous input.
            name: of the input, that of the state by default.

        Returns:
            The network.

        Raises:
            HGFGraphError: the state is unknown, or there is such an input already.
        """
        check_choice("kind", kind, ("continuous", "binary"))
        given = input_precision is not None
        needed = kind == "continuous"
        check(
            given == needed,
            "input_precision",
            input_precision,
            "a number for a continuous input, None for a binary one",
        )
        self._known(state)
        name = state if name is None else name
        if name in [seen.name for seen in self._inputs]:
            raise HGFGraphError(
                "input twice",
                where=f"state {state}",
                found=name,
                expected="each input once",
                todo="Give a second input of a state a name of its own: name=...",
            )
        self._inputs.append(Input(name, state, kind))
        self._graph = None
        if needed:
            self._set(state, precision_key(name, state), input_precision)
        return self

    @property
    def graph(self) -> Graph:
        """States, edges and inputs, checked and in order."""
        if self._graph is None:
            self._graph = build_graph(self._states, self._edges, self._inputs)
        return self._graph

    def forward(
        self,
        u: Data,
        *,
        time_step: float | Tensor | None = None,
        observed: Data | None = None,
        nan_policy: NanPolicy = "raise",
        init_state: NetworkState | None = None,
        on_invalid: OnInvalid = "raise",
        parameters: Mapping[str, Tensor] | None = None,
    ) -> NetworkTrajectory:
        """Filter data.

        Args:
            u: values by name of the input, each `(*batch, T)`; or one tensor,
                `(*batch, T)` for one input and `(*batch, T, inputs)` for several.
            time_step: time since the step before, a number or `(*batch, T)`.
            observed: whether there is a value, of the same form as `u`.
            nan_policy: whether NaN is a mistake ("raise") or a missing value
                ("missing").
            init_state: `final_state` of the part before, in place of `mu0` and `pi0`.
            on_invalid: see :func:`~pyro_geo.filtering.hgf.network.run.run_network`.
            parameters: numbers that replace those of the network, by name as in
                `level.omega`.

        Returns:
            Beliefs at every step.
        """
        graph = self.graph
        inputs = network_inputs(
            graph, u, observed=observed, time_step=time_step, nan_policy=nan_policy
        )
        numbers = read_parameters(
            self, graph, inputs.u, replaced=parameters, init_state=init_state
        )
        inputs = inputs._replace(
            u=inputs.u.to(numbers.mu0.dtype),
            time_step=inputs.time_step.to(numbers.mu0.dtype),
        )
        return run_network(
            graph,
            numbers,
            inputs,
            update=self.update,
            predictive=self.predictive,
            on_invalid=on_invalid,
            backend=self.backend,
        )

    @pyro_method
    def distribution(
        self,
        num_steps: int | None = None,
        *,
        time_step: float | Tensor = 1.0,
        observed: Tensor | None = None,
        parameters: Mapping[str, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> NetworkDistribution:
        """Make the distribution of the inputs, to be observed in a Pyro model.

        Args:
            num_steps: length of the series; needed where `time_step` is a number.
            time_step: time since the step before, a number or `(*batch, T)`.
            observed: which inputs there are, bool of the form of the events; values
                elsewhere are ignored.
            parameters: numbers that replace those of the network, by name as in
                `level.omega`.
            validate_args: whether values are checked; None for torch's default.

        Returns:
            A distribution over `(T,)` for one input and `(T, inputs)` for several.

        Example:
            >>> network = HGFNetwork().add_state("x", omega=-2.0)
            >>> inputs = network.observe("x", "binary").distribution(3)
            >>> inputs.log_prob(torch.tensor([0.0, 1.0, 1.0])).shape
            torch.Size([])
        """
        graph = self.graph
        check(
            num_steps is not None or isinstance(time_step, Tensor),
            "num_steps",
            num_steps,
            "a length, or time_step of (*batch, T)",
        )
        like = time_step if isinstance(time_step, Tensor) else None
        numbers = read_parameters(self, graph, like, replaced=parameters)
        step = torch.as_tensor(
            time_step, dtype=numbers.mu0.dtype, device=numbers.mu0.device
        )
        if num_steps is not None and step.dim() == 0:
            step = step.expand(num_steps)
        return NetworkDistribution(
            graph,
            numbers,
            step,
            observed=observed,
            update=self.update,
            predictive=self.predictive,
            backend=self.backend,
            validate_args=validate_args,
        )

    def _known(self, name: str) -> None:
        if name not in self._states:
            raise HGFGraphError(
                "unknown state",
                where="network",
                found=repr(name),
                expected=f"one of {', '.join(self._states) or 'none'}",
                todo=f"Call add_state({name!r}, ...) first.",
            )

    def _set(self, state: str, key: str, value: Any) -> None:
        owner = getattr(self, state)
        if type(value) is Tensor:
            owner.register_buffer(key, value)
        else:
            setattr(owner, key, value)
