r"""Boolean networks: each gene follows a truth table of its regulators.

.. math:: x_{k+1} = f(x_k) \oplus u_k \oplus n_k, \qquad
    n_{ki} \sim \mathrm{Bernoulli}(p_i)

Some entries of the tables may be unknown. A value for each of them is one row of a
tensor, and everything here takes many such rows at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import ModelError
from pyro_geo.planning.boolean_network.hypercube import state_bits

__all__ = ["BooleanNetwork", "check_actions", "check_table"]


class BooleanNetwork:
    r"""Genes and their rules, some entries of which may be unknown.

    Args:
        genes: their names.
        regulators: for each gene, names or numbers of the genes it depends on.
        tables: for each gene, its truth table as a text of `0` and `1`; the first
            regulator is the most significant bit of the row. A gene with `m`
            regulators has :math:`2^m` entries; without any, one.
        unknown: entries that are not known, as pairs of a gene and a row.

    Raises:
        ModelError: a name occurs twice, a gene has no rule, or a table has the wrong
            length or other characters.

    References:
        Imani, Ghoreishi and Braga-Neto (2018), Bayesian Control of Large MDPs with
        Unknown Dynamics in Data-Poor Environments, NeurIPS.

    Example:
        >>> net = BooleanNetwork("ab", [["b"], ["a", "b"]], ["10", "0110"])
        >>> net.step(torch.tensor([1, 0])).tolist()
        [1, 1]
        >>> net.image().tolist()
        [2, 1, 3, 0]
    """

    def __init__(
        self,
        genes: Sequence[str],
        regulators: Sequence[Sequence[str | int]],
        tables: Sequence[str],
        *,
        unknown: Sequence[tuple[str | int, int]] = (),
    ) -> None:
        self.genes = tuple(genes)
        twice = sorted({g for g in self.genes if self.genes.count(g) > 1})
        if twice or not self.genes:
            raise ModelError(
                "names of genes are not distinct",
                where="argument genes",
                found=twice or "no gene",
                expected="at least one name, each once",
                todo="Rename or remove them.",
            )
        for name, value in (("regulators", regulators), ("tables", tables)):
            if len(value) != len(self.genes):
                raise ModelError(
                    "not one rule for each gene",
                    where=f"argument {name}",
                    found=len(value),
                    expected=len(self.genes),
                    todo="Give each gene its regulators and its table.",
                )
        self.regulators = tuple(
            tuple(self.gene_number(one, f"regulators of {gene!r}") for one in row)
            for gene, row in zip(self.genes, regulators, strict=True)
        )
        for gene, row, table in zip(self.genes, self.regulators, tables, strict=True):
            check_table(gene, len(row), table)
        # numbers, not a tensor: a network may be made while a model is traced
        self._starts = [0, *itertools.accumulate(map(len, tables))]
        self._offsets = torch.tensor(self._starts[:-1])
        self._entries = torch.tensor([int(c) for c in "".join(tables)])
        self._weights = self._row_weights()
        self.unknown = tuple(self._entry(gene, row) for gene, row in unknown)
        once = len(set(self.unknown)) == len(self.unknown)
        check(once, "unknown", unknown, "each entry once", error=ModelError)
        # places of the unknown entries in the tables, end to end
        places = [self._starts[gene] + row for gene, row in self.unknown]
        self._places = torch.tensor(places, dtype=torch.long)

    @classmethod
    def from_rules(
        cls,
        rules: Mapping[str, tuple[Sequence[str], str]],
        *,
        unknown: Sequence[tuple[str | int, int]] = (),
    ) -> BooleanNetwork:
        """Make a network of rules by the names of genes.

        Args:
            rules: for each gene its regulators and its table.
            unknown: entries that are not known, as pairs of a gene and a row.

        Returns:
            The network, with the genes in the order of `rules`.

        Example:
            >>> rules = {"a": (["b"], "10"), "b": ([], "1")}
            >>> BooleanNetwork.from_rules(rules).genes
            ('a', 'b')
        """
        regulators = [row for row, _ in rules.values()]
        tables = [table for _, table in rules.values()]
        return cls(list(rules), regulators, tables, unknown=unknown)

    @property
    def num_genes(self) -> int:
        """Number of genes, `n`."""
        return len(self.genes)

    @property
    def num_states(self) -> int:
        """Number of states, :math:`2^n`."""
        return 2**self.num_genes

    @property
    def tables(self) -> tuple[str, ...]:
        """Truth tables as given, one text for each gene."""
        text = "".join(map(str, self._entries.tolist()))
        return tuple(text[a:b] for a, b in itertools.pairwise(self._starts))

    def gene_number(self, gene: str | int, where: str = "argument gene") -> int:
        """Find a gene by its name, or check its number.

        Args:
            gene: name, or number from 0.
            where: what the gene is asked for, for the message.

        Returns:
            Its number.

        Raises:
            ModelError: there is no such gene.

        Example:
            >>> BooleanNetwork("ab", [[], []], ["0", "1"]).gene_number("b")
            1
        """
        if isinstance(gene, str) and gene in self.genes:
            return self.genes.index(gene)
        if isinstance(gene, int) and 0 <= gene < self.num_genes:
            return int(gene)
        raise ModelError(
            "unknown gene",
            where=where,
            found=repr(gene),
            expected=f"a name among {list(self.genes)} or a number below "
            f"{self.num_genes}",
            todo="Correct the name or the number.",
        )

    def published_values(self) -> Tensor:
        """Values of the unknown entries in the tables that the network was made with.

        Returns:
            Zeros and ones, `(k,)`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 1)])
            >>> net.published_values()
            tensor([1])
        """
        return self._entries[self._places]

    def rule_sets(self) -> Tensor:
        """List every combination of values of the unknown entries.

        Returns:
            Zeros and ones, `(2^k, k)`; a network without unknown entries has one set,
            `(1, 0)`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[(0, 0), (0, 1)])
            >>> net.rule_sets().tolist()
            [[0, 0], [0, 1], [1, 0], [1, 1]]
        """
        count = len(self.unknown)
        return state_bits(count) if count else torch.zeros(1, 0, dtype=torch.long)

    def step(self, states: Tensor, values: Tensor | None = None) -> Tensor:
        r"""Apply the rules :math:`f` to states given by their bits.

        The states are not enumerated, so the network may have any number of genes.

        Args:
            states: zeros and ones of any type, `(..., n)`.
            values: of the unknown entries, `(..., k)`, zeros and ones of any type;
                leading axes broadcast. Left out: those of the tables.

        Returns:
            The states that follow without flips, `(..., n)`, in the type of `states`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 0)])
            >>> net.step(torch.zeros(1), torch.tensor([[0], [1]])).tolist()
            [[0.0], [1.0]]
        """
        check_shape("states", states.shape[-1:], (self.num_genes,))
        bits = states.round().long()
        weights, offsets = self._weights.to(bits), self._offsets.to(bits)
        # sums over genes as a product: integers have no fast matrix product
        rows = (bits[..., :, None] * weights).sum(-2) + offsets  # (..., n)
        if values is None:
            return self._entries.to(bits)[rows].to(states.dtype)
        tables = self._filled(values)  # (..., entries)
        batch = torch.broadcast_shapes(rows.shape[:-1], tables.shape[:-1])
        tables = tables.expand(*batch, tables.shape[-1])
        return tables.gather(-1, rows.expand(*batch, -1)).to(states.dtype)

    def image(self, values: Tensor | None = None) -> Tensor:
        r"""Where the rules send each of the :math:`2^n` states.

        Args:
            values: of the unknown entries, `(..., k)`, zeros and ones of any type.
                Left out: those of the tables.

        Returns:
            Index of the state that follows each state without flips, `(..., 2^n)`.

        Example:
            >>> net = BooleanNetwork("a", [["a"]], ["01"], unknown=[("a", 0)])
            >>> net.image(torch.tensor([[0], [1]])).tolist()
            [[0, 1], [1, 1]]
        """
        bits = state_bits(self.num_genes)
        powers = bits.new_tensor([2**k for k in reversed(range(self.num_genes))])
        rows = bits @ self._weights + self._offsets  # (2^n, n)
        entries = self._entries
        if values is not None:
            entries = entries.index_fill(0, self._places, 0)
        base = (entries[rows] * powers).sum(-1)
        if values is None:
            return base
        values = self._values(values)
        if not self.unknown:
            return base.expand(*values.shape[:-1], -1)
        # an entry that is one sets the bit of its gene where its row applies
        genes = torch.tensor([gene for gene, _ in self.unknown])
        applies = rows[:, genes] == self._places  # (2^n, k)
        effects = (applies * powers[genes]).T.to(values.device)  # (k, 2^n)
        return base.to(values.device) + values @ effects

    def _filled(self, values: Tensor) -> Tensor:
        """All tables end to end, with these values in them, `(..., entries)`."""
        values = self._values(values)
        entries = self._entries.to(values).expand(*values.shape[:-1], -1)
        places = self._places.to(values).expand(values.shape)
        return entries.scatter(-1, places, values)

    def _values(self, values: Tensor) -> Tensor:
        check_shape("values", values.shape[-1:], (len(self.unknown),))
        return values.round().long()

    def _row_weights(self) -> Tensor:
        """Weight of each gene, first axis, in the row of each table, `(n, n)`."""
        weights = torch.zeros(self.num_genes, self.num_genes, dtype=torch.long)
        for gene, row in enumerate(self.regulators):
            for place, regulator in enumerate(reversed(row)):
                weights[regulator, gene] += 2**place
        return weights

    def _entry(self, gene: str | int, row: int) -> tuple[int, int]:
        number = self.gene_number(gene, "argument unknown")
        rows = 2 ** len(self.regulators[number])
        good = isinstance(row, int) and 0 <= row < rows
        check(
            good,
            "unknown",
            f"row {row} of {self.genes[number]!r}",
            f"a row below {rows}",
            error=ModelError,
        )
        return number, row

    def __repr__(self) -> str:
        known = f", {len(self.unknown)} unknown entries" if self.unknown else ""
        return f"BooleanNetwork({self.num_genes} genes{known})"


def check_table(gene: str, num_regulators: int, table: str) -> None:
    """Refuse a truth table of the wrong length or with other characters.

    Args:
        gene: whose table it is.
        num_regulators: number of its regulators.
        table: the table.

    Raises:
        ModelError: it is wrong.

    Example:
        >>> check_table("a", 1, "01")
    """
    good = isinstance(table, str) and set(table) <= {"0", "1"}
    if not good or len(table) != 2**num_regulators:
        raise ModelError(
            "wrong truth table",
            where=f"gene {gene!r}",
            found=f"{len(table)} entries {table[:40]!r}" if good else repr(table)[:60],
            expected=f"{2**num_regulators} characters 0 or 1 for {num_regulators} "
            "regulators",
            todo="Write one character for each row, first regulator most significant.",
        )


def check_actions(actions: Tensor, network: BooleanNetwork) -> None:
    """Refuse actions that do not say for each gene whether it is flipped.

    Args:
        actions: genes that each action flips, `(A, n)`.
        network: whose genes they are.

    Example:
        >>> check_actions(torch.zeros(1, 1), BooleanNetwork("a", [["a"]], ["01"]))
    """
    count = network.num_genes
    good = actions.dim() == 2 and actions.shape[1] == count
    check_shape("actions", actions.shape, f"(A, {count})", good)
