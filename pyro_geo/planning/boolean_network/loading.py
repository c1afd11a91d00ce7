"""Reader of files of networks to be controlled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_geo.errors import ModelError
from pyro_geo.planning.boolean_network.channel import Channel
from pyro_geo.planning.boolean_network.network import BooleanNetwork, check_table
from pyro_geo.planning.boolean_network.problem import NetworkControl

__all__ = ["load_networks", "network_of"]

_KEYS = ("name", "genes", "rules", "target", "controls")


def load_networks(
    path: str | Path,
    *,
    mutation: Tensor | float = 0.01,
    channel: Channel | None = None,
    discount: float = 0.95,
    combined: bool = False,
) -> list[NetworkControl]:
    """Read control problems from a JSON file.

    The file is a list. Each network has `name`, `genes` (their names), `rules` (for
    each gene its `regulators` and its `table`), `target` (`gene`, `bad_value`),
    `controls` (genes that may be flipped), and may have `fixed_inputs` (constants by
    name), `uncertain` (unknown entries, each with `gene` and `row`), `bad_cost` and
    `flip_cost` (1 and .2 if left out). Genes are given by number from 0 or by name. A
    regulator that is the name of a fixed input is replaced by its constant.

    Args:
        path: the file.
        mutation: probability that a gene flips by itself.
        channel: law of the measurements. Left out: states are seen without noise.
        discount: of the rewards.
        combined: whether several genes may be flipped in one step.

    Returns:
        The problems, in the order of the file.

    Raises:
        ModelError: the file is no list of networks, or one of them is wrong; the
            message names the network, and the gene where one is concerned.

    Example:
        >>> import tempfile, pathlib
        >>> text = '''[{"name": "pair", "genes": ["a", "b"],
        ...   "rules": [{"regulators": [1], "table": "01"},
        ...             {"regulators": ["dose", "a"], "table": "0110"}],
        ...   "fixed_inputs": {"dose": 1},
        ...   "target": {"gene": 0, "bad_value": 1}, "controls": [1]}]'''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "networks.json")
        ...     _ = file.write_text(text)
        ...     (problem,) = load_networks(file)
        >>> problem.network.tables
        ('01', '10')
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(
            "no JSON file",
            where=str(path),
            found=str(error),
            expected="a list of networks",
            todo="Correct the file at that place.",
        ) from error
    if not isinstance(records, list) or not records:
        raise ModelError(
            "no list of networks",
            where=str(path),
            found=f"{type(records).__name__} of {str(records)[:40]}",
            expected="a list with at least one network",
            todo="Put the networks between square brackets.",
        )
    options = {"mutation": mutation, "channel": channel, "discount": discount}
    return [network_of(record, **options, combined=combined) for record in records]


def network_of(record: Mapping[str, Any], **options: Any) -> NetworkControl:
    """Make a control problem of one record of a file.

    Args:
        record: as described at :func:`load_networks`.
        **options: of :class:`NetworkControl` beyond those that the record has.

    Returns:
        The problem.

    Raises:
        ModelError: the record is wrong; the message names the network.

    Example:
        >>> record = {"name": "two", "genes": ["a", "b"]}
        >>> record["rules"] = [
        ...     {"regulators": [], "table": "1"},
        ...     {"regulators": [0], "table": "10"},
        ... ]
        >>> record |= {"target": {"gene": 1, "bad_value": 0}, "controls": [0]}
        >>> network_of(record, mutation=0.1).name
        'two'
    """
    named = isinstance(record, Mapping)
    name = str(record.get("name", "without a name")) if named else str(record)[:40]
    try:
        return _read(record, name, options)
    except ModelError as error:
        text = str(error)
        if name in text:
            raise
        raise ModelError(f"network {name!r}: {text}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "record of a network cannot be read",
            where=f"network {name!r}",
            found=f"{type(error).__name__}: {error}",
            expected=f"a record with {', '.join(_KEYS)}",
            todo="Compare it with the format of load_networks.",
        ) from error


def _read(
    record: Mapping[str, Any], name: str, options: Mapping[str, Any]
) -> NetworkControl:
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise ModelError(
            "record of a network is not complete",
            where=f"network {name!r}",
            found=f"no {', '.join(missing)}",
            expected=f"all of {', '.join(_KEYS)}",
            todo="Add what is missing.",
        )
    genes, fixed = list(record["genes"]), dict(record.get("fixed_inputs", {}))
    both = sorted(set(genes) & set(fixed))
    wrong = {key: value for key, value in fixed.items() if value not in (0, 1)}
    if both or wrong:
        raise ModelError(
            "wrong fixed inputs",
            where=f"network {name!r}",
            found=both or wrong,
            expected="names that are no genes, each with 0 or 1",
            todo="Correct fixed_inputs.",
        )
    regulators, tables, places = [], [], []
    for gene, rule in zip(genes, _rules(record, name, genes), strict=True):
        row, kept = rule["regulators"], rule["table"]
        check_table(gene, len(row), kept)
        row, rows = _reduced(row, genes, fixed)
        regulators.append(row)
        tables.append("".join(kept[k] for k in rows))
        places.append(rows)
    unknown = [_entry(e, genes, places, name) for e in record.get("uncertain", ())]
    network = BooleanNetwork(genes, regulators, tables, unknown=unknown)
    costs = {k: record[k] for k in ("bad_cost", "flip_cost") if k in record}
    return NetworkControl(
        network,
        target=record["target"]["gene"],
        bad_value=record["target"]["bad_value"],
        controls=record["controls"],
        name=name,
        fixed_inputs=fixed,
        **costs,
        **options,
    )


def _rules(
    record: Mapping[str, Any], name: str, genes: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    rules = record["rules"]
    if len(rules) != len(genes):
        raise ModelError(
            "not one rule for each gene",
            where=f"network {name!r}",
            found=f"{len(rules)} rules for {len(genes)} genes",
            expected=len(genes),
            todo="Give each gene its regulators and its table.",
        )
    return rules


def _reduced(
    regulators: Sequence[str | int], genes: Sequence[str], fixed: Mapping[str, int]
) -> tuple[list[str | int], list[int]]:
    """Regulators that are no fixed inputs, and the rows of the table that are left."""
    constant = {
        place: fixed[one]
        for place, one in enumerate(regulators)
        if isinstance(one, str) and one in fixed and one not in genes
    }
    last = len(regulators) - 1
    rows = [
        row
        for row in range(2 ** len(regulators))
        if all((row >> (last - place)) & 1 == v for place, v in constant.items())
    ]
    return [one for k, one in enumerate(regulators) if k not in constant], rows


def _entry(
    entry: Mapping[str, Any], genes: Sequence[str], rows: Sequence[list[int]], name: str
) -> tuple[str | int, int]:
    """An unknown entry, in the table that fixed inputs have left."""
    gene, row = entry["gene"], entry["row"]
    number = genes.index(gene) if gene in genes else gene
    known = isinstance(number, int) and 0 <= number < len(genes)
    if known and row not in rows[number]:
        raise ModelError(
            "wrong row of an unknown entry",
            where=f"network {name!r}, gene {genes[number]!r}",
            found=row,
            expected=f"a row of its table among {rows[number][:16]}",
            todo="Correct the row; one that fixed inputs rule out never applies.",
        )
    return gene, rows[number].index(row) if known else row
