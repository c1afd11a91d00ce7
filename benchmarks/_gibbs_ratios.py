"""The headline comparisons of the benchmark on Gibbs posteriors."""

from collections.abc import Mapping, Sequence

from _bench import Row, against_aims

OURS = "ours, pooled codebook, ensemble"
PEERS = {"pbb": "PAC-Bayes by backprop", "recursive": "recursive PAC-Bayes"}
AIMS = {
    "certificate/pbb/breast_cancer": 0.60,
    "certificate/pbb/digits": 0.65,
    "llc_relative_error/reduced_rank": 0.02,
    "llc_cpu_s/devinterp": 0.7,
    "certificate/value/mnist_10k": 0.10,
}


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
        if row["method"] == "ours, split prior" and row["metric"] == "certificate":
            found["certificate/value/mnist_10k"] = row["value"]
    return found | coefficients(rows)


def coefficients(rows: Sequence[Row]) -> dict[str, float]:
    """Mean relative error of our estimates, and cost beside the peers'.

    Args:
        rows: everything measured.

    Returns:
        Figures by key; those of peers in the same unit beside.
    """
    figures = {
        (row["method"], row["metric"]): row["value"]
        for row in rows
        if row["case"] == "reduced_rank"
    }
    found: dict[str, float] = {}
    mine = "ours, MH-corrected HMC"
    for (method, metric), value in figures.items():
        if metric == "relative error":
            name = "" if method == mine else "/" + method.split(", ")[1]
            found[f"llc_relative_error/reduced_rank{name}"] = value
        if metric == "processor seconds" and method != mine:
            key = method.split(", ")[1]
            key = "devinterp" if key == "sgld" else f"devinterp_{key}"
            found[f"llc_cpu_s/{key}"] = figures[mine, metric] / value
    return found


def reading(found: Mapping[str, float]) -> list[str]:
    """Hold the headline comparisons against their aims.

    Args:
        found: the comparisons.

    Returns:
        Lines of text.
    """
    return against_aims(found, AIMS)
