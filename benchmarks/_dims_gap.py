"""Part `gap`: a regression with a gap, DiMS beside everything else.

Mixture negative log-likelihood of test points inside the gap and where there are data,
and processor seconds, on one thread, warm; what a method starts from (the MAP) is
counted in. All methods that train start from weights scaled by their number of
inputs, as networks are trained in practice; rows of a second case start from uniform
weights on (-2, 2) instead.
"""

from _bench import Row, load
from _dims_common import Outcome, Scores, laplace_draws, row, seconds
from _dims_gap_methods import (
    ENSEMBLE,
    HEADLINE,
    LINEARISED,
    MEMBERS,
    UNITS,
    VARIANTS,
    Data,
    Sizes,
    closed_form,
    dims,
    from_anchors,
    in_sets,
    linearised,
    nuts,
    others,
    score,
    trajectories,
)

from pyro_geo import Target
from pyro_geo.evaluation.baselines import (
    deep_ensemble,
    fan_in_starts,
    map_estimate,
    sghmc,
)

QUICK = Sizes(1, 3, 5, 20, 2, 10, (2, 3, 2), 2, False, 12)


def measure(quick: bool) -> Outcome:
    """Score every method and compare the headline configuration with two of them."""
    sizes = QUICK if quick else Sizes()
    module = load("gap_network")
    target = Target.from_model(module.model, *module.data(), compile=sizes.rung)
    test = Target.from_model(module.model, *module.held_out(), compile=False)
    rows: list[Row] = []
    if not quick:
        _, spent = seconds(lambda: warm(Data(module, 0, target, test, test), sizes))
        rows += [row("gap", "all", "compilation, once", spent, "s")]
    found = {starts: Scores(f"gap{starts}", UNITS) for starts in ("", ", uniform")}
    for seed in range(sizes.seeds):
        data = Data(
            module,
            seed,
            target.with_data(*module.data(seed)),
            test.with_data(*module.out_of_distribution(seed)),
            test.with_data(*module.held_out(seed)),
        )
        one_seed(found[""], data, sizes, fan_in=True)
        others(found[""], data, sizes)
        one_seed(found[", uniform"], data, sizes, fan_in=False)
    for scores in found.values():
        rows += scores.rows()
    return Outcome(rows + differences(found, sizes), ratios(found[""], sizes))


def warm(data: Data, sizes: Sizes) -> None:
    """Compile every graph that is timed later, with as little work as possible."""
    few = {"num_steps": 2, "polish_steps": 1}
    q = map_estimate(data.target, **few, initial=fan_in_starts(data.target, 1))
    starts = fan_in_starts(data.target, sizes.draws)
    map_estimate(data.target, MEMBERS, **few, initial=starts[:MEMBERS])
    map_estimate(data.target, sizes.draws, **few, initial=starts)
    sghmc(data.target, sizes.draws, 4, initial=starts)
    for draws in (sizes.draws, sizes.many):
        for variant in VARIANTS.values() if draws == sizes.draws else ({},):
            dims(data, q, draws, sizes, {**variant, "max_evals": 4, "polish": False})
    anchors = starts[:MEMBERS]
    dims(data, anchors, sizes.draws, sizes, {"max_evals": 4})


def one_seed(scores: Scores, data: Data, sizes: Sizes, *, fan_in: bool) -> None:
    """Score what depends on the starts."""
    target, seed = data.target, data.seed
    starts = fan_in_starts(target, MEMBERS, seed=seed) if fan_in else None
    first = starts[:1] if starts is not None else None
    steps = {"num_steps": sizes.adam, "polish_steps": sizes.lbfgs}
    q, spent = seconds(
        lambda: map_estimate(target, 1, seed=seed, **steps, initial=first)
    )
    score(scores, "MAP", data, q, spent)
    members, cost = seconds(
        lambda: deep_ensemble(
            target, MEMBERS, seed=seed, num_steps=sizes.adam, initial=starts
        )
    )
    score(scores, ENSEMBLE, data, members, cost)
    from_anchors(scores, data, members, sizes, cost)
    draws, cost = seconds(lambda: laplace_draws(target, q[0], sizes.draws, seed))
    score(scores, f"Laplace, {sizes.draws} draws", data, draws, spent + cost)
    for count in (sizes.draws, sizes.many):
        linearised(scores, data, q[0], count, [seed], spent)
    sets = range(1000, 1000 + sizes.sets)
    linearised(scores, data, q[0], sizes.draws, sets, spent)
    closed_form(scores, data, q[0], spent)
    variants = VARIANTS if fan_in else {HEADLINE: {}}
    for method, variant in variants.items():
        fit, cost = seconds(
            lambda variant=variant: dims(data, q, sizes.draws, sizes, variant)
        )
        trajectories(scores, f"{method}, {sizes.draws} draws", data, fit, spent + cost)
    fit, cost = seconds(lambda: dims(data, q, sizes.many, sizes, {}))
    trajectories(scores, f"{HEADLINE}, {sizes.many} draws", data, fit, spent + cost)
    in_sets(scores, data, fit.positions[0], sizes)
    if fan_in:
        nuts(scores, data, q[0], spent, sizes)


def ratios(scores: Scores, sizes: Sizes) -> dict[str, float]:
    """Ours minus theirs, the same number of draws on both sides."""
    ours = scores.mean(f"{HEADLINE}, {sizes.draws} draws", "gap_nll")
    linear = scores.mean(f"{LINEARISED}, {sizes.draws} draws", "gap_nll")
    return {
        "gap_nll_difference/linearised_laplace": ours - linear,
        "gap_nll_difference/ensemble": ours - scores.mean(ENSEMBLE, "gap_nll"),
    }


def differences(found: dict[str, Scores], sizes: Sizes) -> list[Row]:
    """The same comparison with other starts and other numbers of draws."""
    few, many = f"{sizes.draws} draws", f"{sizes.many} draws"
    mean = f"mean of {MEMBERS} anchors"
    peers = [
        (few, f"{LINEARISED}, {few}"),
        (f"{few}, mean of sets", f"{LINEARISED}, {few}, mean of sets"),
        (many, f"{LINEARISED}, {many}"),
        (few, f"{LINEARISED}, closed form"),
        (many, f"{LINEARISED}, closed form"),
        (f"{few}, {mean}", f"{LINEARISED}, {few}, {mean}"),
        (f"{few}, {mean}", f"{LINEARISED}, closed form, {mean}"),
        (few, ENSEMBLE),
        (f"{few}, {mean}", ENSEMBLE),
        (many, ENSEMBLE),
    ]
    note = "headline: scaled starts, one set of as many draws on both sides"
    rows = []
    for starts, scores in found.items():
        for draws, peer in peers:
            mine = scores.mean(f"{HEADLINE}, {draws}", "gap_nll")
            value = mine - scores.mean(peer, "gap_nll")
            label = f"ours ({draws}) minus {peer}"
            case = f"gap{starts}"
            rows.append(row(case, label, "gap nll difference", value, "nat", note=note))
    return rows
