"""Measure Gibbs posteriors: certificates beside those of others, learning coefficients.

Parts can be measured apart (`--only matrix`; the results of the others are kept):
`certificates`, a network on two data sets; `matrix`, completing a matrix; `llc`,
learning coefficients beside devinterp; `mnist`, a network on images. Double precision
on one thread. Results are written after every case.
"""

from collections.abc import Callable, Iterator

import _gibbs_certificates
import _gibbs_llc
import _gibbs_matrix
import _gibbs_mnist
import torch
from _bench import Row, measure_parts, options
from _gibbs_ratios import ratios, reading

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "certificates": _gibbs_certificates.measure,
    "matrix": _gibbs_matrix.measure,
    "llc": _gibbs_llc.measure,
    "mnist": _gibbs_mnist.measure,
}
PACKAGES = (
    "torch",
    "pyro-ppl",
    "numpy",
    "scikit-learn",
    "numpyro",
    "jax",
    "devinterp",
)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = measure_parts("gibbs", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(reading(found)))


if __name__ == "__main__":
    main()
