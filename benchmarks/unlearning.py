"""Measure deletion: what is left of data, at what cost, and what was foretold.

Parts can be measured apart (`--only khat`; results of the others are kept):
`posterior`, divergences from a guide after deletion to one trained without the data;
`draws`, one in a hundred of 10,000 rows beside a refit; `khat`, tails of weights that
were predicted from leverage; `loo`, leave-one-out of counts with outliers; `stream`,
online Newton steps on digits, and `networks`, four optimisers: what memories hold of a
class that was deleted; `certified`, an attack on states after certified deletion.
Double precision on one thread. Results are written after every case.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from _bench import Row, against_aims, measure_parts, options
from _unlearning_certified import measure as certified
from _unlearning_certified import ratios as certified_ratios
from _unlearning_draws import measure as draws
from _unlearning_draws import ratios as draws_ratios
from _unlearning_khat import measure as khat
from _unlearning_khat import ratios as khat_ratios
from _unlearning_loo import measure as loo
from _unlearning_loo import ratios as loo_ratios
from _unlearning_networks import measure as networks
from _unlearning_networks import ratios as networks_ratios
from _unlearning_posterior import measure as posterior
from _unlearning_posterior import ratios as posterior_ratios
from _unlearning_stream import measure as stream
from _unlearning_stream import ratios as stream_ratios

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "posterior": posterior,
    "draws": draws,
    "khat": khat,
    "loo": loo,
    "stream": stream,
    "networks": networks,
    "certified": certified,
}
RATIOS: dict[str, Callable[[Sequence[Row]], dict[str, float]]] = {
    "posterior": posterior_ratios,
    "draws": draws_ratios,
    "khat": khat_ratios,
    "loo": loo_ratios,
    "stream": stream_ratios,
    "networks": networks_ratios,
    "certified": certified_ratios,
}
PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy", "scikit-learn", "pytorch_optimizer")
AT_MOST = {
    "kl_to_retrained/site_removal": 0.1,
    "delete_draws/refit_time": 0.05,
    "khat_prediction_error": 0.1,
    "khat_prediction_error/mean_of_runs": 0.1,
    "loo_bad_khat/after_moment_matching": 0.0,
    "loo_row/refit_time": 0.05,
    "stream_energy_gap/downdate": 1.1,
    "stream_energy_gap/decay .01": 0.5,
    "stream_energy_gap/reset": 0.25,
    "stream_energy_gap/random": 0.1,
    "state_attack_auc/ours": 0.55,
    "certified_accuracy_lost": 0.01,
}
AT_LEAST = {
    "loo_bad_khat/before": 15.0,
    "stream_energy_gap/none": 1.5,
    "stream_energy_gap/downdate": 0.4,
    "state_attack_auc/untreated": 0.9,
}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Make the headline comparisons of each part from its rows."""
    found: dict[str, float] = {}
    for part, own in RATIOS.items():
        found |= own([row for row in rows if row["part"] == part])
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = measure_parts("unlearning", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
