"""Part `digits`: eight views of scikit-learn's digits, merged in every way."""

from collections.abc import Iterator, Sequence

from _bench import Row
from _merging_problems import Sizes, digits, problems
from _merging_scores import Score, ratios_of, rows_of, scores, show

CASE = "digits, 8 tasks"
SEEDS = (0, 1, 2, 3, 4)
QUICK = Sizes(pretraining=20, fine_tuning=10, joint=10, draws=1, unlabelled=40)


def measure(quick: bool, seeds: Sequence[int] = SEEDS) -> Iterator[list[Row]]:
    """Merge and score each repetition; the rows are of all of them."""
    seeds = seeds[:1] if quick else seeds
    found: list[Score] = []
    made = problems(*digits(), seeds, QUICK if quick else Sizes())
    for seed, problem in zip(seeds, made, strict=True):
        for score in scores(problem, quick):
            found.append(score)
            show(f"{CASE}, seed {seed}", score)
    yield rows_of(CASE, found, len(seeds))


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Headlines of the part."""
    return ratios_of(CASE, "digits", rows)
