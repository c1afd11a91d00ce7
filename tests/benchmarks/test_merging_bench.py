"""The digit tasks of the merging benchmark are what it says they are."""

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
STILL = (0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def seen(problems, image, **view):
    generator = torch.Generator().manual_seed(0)
    found = problems.seen(image[None], problems.View(**view), STILL, generator)
    return found.view(8, 8)


def test_views_move_turn_and_fade_an_image(bench):
    problems = bench("_merging_problems")
    image = torch.zeros(8, 8)
    image[2, 3] = 1.0
    close = torch.testing.assert_close
    close(seen(problems, image), image - 0.5, atol=1e-5, rtol=0)
    moved = seen(problems, image, right=0.25, down=0.125)
    close(moved, image.roll((1, 2), (0, 1)) - 0.5, atol=1e-5, rtol=0)
    turned = seen(problems, image, angle=90.0)
    # a right angle permutes the pixels, either way round
    ways = [image.rot90(k) - 0.5 for k in (1, 3)]
    assert min((turned - way).abs().max().item() for way in ways) < 1e-5
    faint = seen(problems, image, contrast=0.25)
    close(faint, 0.25 * (image - 0.5), atol=1e-5, rtol=0)
    half = seen(problems, torch.ones(8, 8), zoom=0.5)
    assert (half[2:6, 2:6] > 0.49).all()  # the image fills the middle alone
    assert (half[[0, -1]] < -0.49).all()


def test_a_network_is_its_formula_and_batches_are_networks(bench):
    problems = bench("_merging_problems")
    generator = torch.Generator().manual_seed(1)
    drawn = [problems.start(64, 16, generator) for _ in range(3)]
    x = torch.randn(3, 5, 64, generator=generator)
    both = problems.logits(
        {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}, x
    )
    for one, inputs, scores in zip(drawn, x, both, strict=True):
        network = problems.Network(64, 16).to(inputs)
        network.load_state_dict(one)
        torch.testing.assert_close(network(inputs), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [0, 30])
def test_images_of_each_purpose_are_apart(bench, last):
    problems = bench("_merging_problems")
    numbers = torch.arange(100)
    sizes = problems.Sizes(fitted=20, unlabelled=10, validation=15)
    parts = problems.split(numbers[:, None], numbers, sizes, 0, last)
    kept = torch.cat([y for _, y in parts.values()])
    assert len(kept.unique()) == len(kept)
    assert len(parts["test"][1]) == (last or 55)
    if last:
        assert parts["test"][1].min() == 70
    assert not torch.equal(
        parts["fitted"][1],
        problems.split(numbers, numbers, sizes, 1, last)["fitted"][1],
    )


def test_ratios_hold_ours_against_the_best_published_method(bench):
    scores = bench("_merging_scores")
    tasks = ("a", "b")

    def score(method, first, second, forecast):
        lost = {"a": 90.0 - first, "b": 90.0 - second}
        guess = {task: lost[task] + forecast for task in tasks}
        return scores.Score(
            method,
            {"a": first, "b": second},
            lost,
            dict.fromkeys(scores.FORECASTS, guess),
            lost,
            lost,
            1.0,
        )

    found = [
        score("average", 60.0, 50.0, 1.0),
        score("TIES", 70.0, 30.0, -3.0),
        score(scores.GRAM, 72.0, 60.0, 0.0),
        score(scores.OURS, 80.0, 70.0, 0.0),
    ]
    rows = scores.rows_of("case", found, 1)
    ratios = scores.ratios_of("case", "short", rows)
    assert ratios["accuracy/short/mean"] == 75.0
    assert ratios["accuracy/short/worst"] == 70.0
    # gram is ours: it is held against apart
    assert ratios["accuracy_over_best_baseline/short/mean"] == 20.0
    assert ratios["accuracy_over_best_baseline/short/worst"] == 20.0
    assert ratios["accuracy_over_gram/short/worst"] == 10.0
    assert ratios["forecast_within_2_points/short"] == 0.75
    assert 0 < ratios["forecast_spearman/short"] < 1


def test_speeds_are_those_of_the_peer_over_ours(bench):
    projection = bench("_merging_projection")
    rows = [
        {"case": case, "method": method, "metric": "projection, processor"}
        | {"value": value}
        for case, method, value in (
            ("matched rank, 9 columns", projection.OURS, 2.0),
            ("matched rank, 9 columns", projection.PEER, 6.0),
            ("span, 3 columns", projection.OURS, 2.0),
            ("span, 3 columns", projection.PEER, None),
        )
    ]
    found = projection.ratios(rows)
    assert found["metric_speed/curvlinops"] == 3.0
    assert "metric_speed/curvlinops/span" not in found
