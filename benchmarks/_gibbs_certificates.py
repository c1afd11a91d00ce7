"""Part `certificates`: a small network on two data sets, each way to certify it.

A tenth of the training points only scales the inputs. Certificates of 0-1 loss hold
with probability 0.95; figures are means over the seeds, each a new split of the data.
"""

from collections.abc import Iterator

from _bench import Row
from _gibbs_common import (
    OURS,
    PROBLEMS,
    SEEDS,
    Clock,
    Network,
    Problem,
    Split,
    logistic,
    network_model,
    seed_rows,
    wrong,
)
from _gibbs_peers import (
    SCALES,
    STEPS,
    Certified,
    by_backprop,
    classical,
    hold_out,
    recursive,
)

from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import Certificate, Codebook, certify
from pyro_geo.infer.certificates.certificate import Predictor

PRIOR_SCALES = (1.0, 2.0, 4.0)
BETAS = (0.1, 0.25, 0.5, 1.0)
PARTICLES = 128
METRIC = "certificate"

Found = dict[str, tuple[list[Certified], list[float]]]


def measure(quick: bool) -> Iterator[list[Row]]:
    """Certify both data sets in every way."""
    for problem in PROBLEMS[:1] if quick else PROBLEMS:
        found: Found = {}
        for seed in SEEDS[:1] if quick else SEEDS:
            split = problem.split(seed, quick)
            for method, value, cpu in one_seed(problem, split, seed, quick):
                values, clock = found.setdefault(method, ([], []))
                values.append(value)
                clock.append(cpu)
                print(f"{problem.name}, seed {seed}: {method} {value}", flush=True)
        yield rows_of(problem, found)


def rows_of(problem: Problem, found: Found) -> list[Row]:
    """Means over seeds; each peer at the setting of the best mean certificate."""
    rows: list[Row] = []
    for method, (values, clock) in found.items():
        figures = {
            METRIC: [value.value for value in values],
            "test risk": [value.test_risk for value in values],
        }
        rows += seed_rows(problem.name, method, figures, clock)
    return rows


def one_seed(
    problem: Problem, split: Split, seed: int, quick: bool
) -> Iterator[tuple[str, Certified, float]]:
    """Every method on one split, with its processor seconds."""
    yield from ours(problem, split, seed, quick)
    steps = 20 if quick else STEPS
    for scale in SCALES[:1] if quick else SCALES:
        with Clock() as clock:
            value = by_backprop(split, problem.hidden, scale, seed, steps)
        yield f"PAC-Bayes by backprop, prior {scale:g}", value, clock.cpu
        with Clock() as clock:
            value = recursive(split, problem.hidden, scale, seed, steps)
        yield f"recursive PAC-Bayes, prior {scale:g}", value, clock.cpu
    with Clock() as clock:
        value = hold_out(split, problem.hidden, seed, steps)
    yield "hold-out half, Clopper-Pearson", value, clock.cpu
    with Clock() as clock:
        found = list(classical(split, problem.hidden, seed, steps))
    for name, value in found:
        yield name, value, clock.cpu


def ours(
    problem: Problem, split: Split, seed: int, quick: bool
) -> Iterator[tuple[str, Certified, float]]:
    """The Gibbs ensemble, and the pooled codebook over temperatures and priors."""
    betas = BETAS[:1] if quick else BETAS
    books: list[Codebook] = []
    data = (split.x, split.y)
    spent = 0.0
    for scale in PRIOR_SCALES:
        model = GibbsModel(network_model(problem.hidden, scale), logistic)
        with Clock() as clock:
            posterior = GibbsPosterior(
                model,
                betas=betas,
                num_particles=16 if quick else PARTICLES,
                seed=seed,
                progress_bar=False,
            ).run(*data)
            books.append(posterior.codebook())
        spent += clock.cpu
        if scale == PRIOR_SCALES[0]:
            with Clock() as one:
                # a choice among the temperatures: a stage that is picked has its
                # share of the prior alone
                parts = [
                    certify(
                        posterior.stage(i).codebook("final"),
                        wrong,
                        data,
                        predictor="gibbs",
                    )
                    for i, stage in enumerate(posterior.stages)
                    if stage.beta in betas
                ]
                best = min(parts, key=lambda part: part.value)
            yield (
                f"{OURS}, Gibbs ensemble, prior {scale:g}",
                tested(problem, split, best),
                clock.cpu + one.cpu,
            )
    pooled = Codebook.pool(books)
    deployed: dict[str, Predictor] = {"ensemble": "retilted", "one network": "single"}
    for name, predictor in deployed.items():
        with Clock() as clock:
            found = certify(pooled, wrong, data, predictor=predictor)
        yield (
            f"{OURS}, pooled codebook, {name}",
            tested(problem, split, found),
            spent + clock.cpu,
        )


def tested(problem: Problem, split: Split, found: Certificate) -> Certified:
    """Count mistakes of what is deployed on the test set."""
    network = Network(split.x.shape[1], problem.hidden)
    weights = found.sample(200 if found.predictor != "single" else 1)
    risk = float(wrong(network(weights, split.x_test), split.y_test).mean())
    return Certified(found.value, risk)
