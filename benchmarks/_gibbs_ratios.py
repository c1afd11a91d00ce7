"""The headline comparisons of the benchmark on Gibbs posteriors."""

from collections.abc import Mapping, Sequence

from _bench import Row

OURS = "ours, pooled codebook, ensemble"
PEERS = {"pbb": "PAC-Bayes by backprop", "recursive": "recursive PAC-Bayes"}
AIMS = {"certificate/pbb/breast_cancer": 0.60, "certificate/pbb/digits": 0.65}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Divide our certificates by those of peers at their best prior: small is good.

    Args:
        rows: everything measured.

    Returns:
        Ratio of the means over seeds, by key.
    """
    found: dict[str, float] = {}
    for case in ("breast_cancer", "digits"):
        means = {
            row["method"]: row["value"]
            for row in rows
            if (row["case"], row["metric"]) == (case, "certificate")
        }
        for key, name in PEERS.items():
            theirs = [value for method, value in means.items() if name in method]
            if OURS in means and theirs:
                found[f"certificate/{key}/{case}"] = means[OURS] / min(theirs)
        held = means.get("hold-out half, Clopper-Pearson")
        if OURS in means and held:
            found[f"certificate/hold_out/{case}"] = means[OURS] / held
    for row in rows:
        if row["method"] == "covering numbers":
            mine = [
                other["value"]
                for other in rows
                if (other["case"], other["metric"]) == (row["case"], row["metric"])
                and other is not row
            ]
            n = row["case"].split(" = ")[-1]
            found[f"excess_risk/covering_numbers/{n}"] = mine[0] / row["value"]
    return found


def reading(found: Mapping[str, float]) -> list[str]:
    """Hold the headline comparisons against their aims.

    Args:
        found: the comparisons.

    Returns:
        Lines of text.
    """
    lines = []
    for key, aim in AIMS.items():
        if key not in found:
            lines.append(f"- {key}: not measured")
            continue
        met = "met" if found[key] <= aim else "MISSED"
        lines.append(f"- {key}: {found[key]:.3g}, aim at most {aim:g}, {met}")
    return lines
