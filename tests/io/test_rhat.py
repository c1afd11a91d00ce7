"""Nested R-hat, against its formula, exact laws, and what ordinary R-hat cannot say."""

import numpy as np
import pytest
from scipy import stats

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.io.arviz import get_group, nested_r_hat, summary, to_arviz

FALSE_ALARM = 1e-4


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def by_the_formula(superchains):
    """Definition 2.1 of Margossian et al., one scalar, lists of lists of lists."""
    means = [np.mean([np.mean(chain) for chain in s]) for s in superchains]
    grand = sum(means) / len(means)
    between = sum((m - grand) ** 2 for m in means) / (len(means) - 1)
    within = 0.0
    for chains, mean in zip(superchains, means, strict=True):
        if len(chains) > 1:
            spread = sum((np.mean(chain) - mean) ** 2 for chain in chains)
            within += spread / (len(chains) - 1)
        if len(chains[0]) > 1:
            each = [
                sum((z - np.mean(chain)) ** 2 for z in chain) / (len(chain) - 1)
                for chain in chains
            ]
            within += sum(each) / len(chains)
    return (1 + between / (within / len(superchains))) ** 0.5


@pytest.mark.parametrize(
    ("superchains", "chains", "draws"), [(4, 8, 5), (2, 1, 30), (6, 16, 1), (3, 2, 2)]
)
def test_it_is_the_formula(rng, superchains, chains, draws):
    grouped = rng.normal(size=(superchains, chains, draws, 2, 3))
    grouped += rng.normal(size=(superchains, 1, 1, 2, 3))
    found = nested_r_hat(grouped.reshape(-1, draws, 2, 3), superchains)
    assert found.shape == (2, 3)
    for index in np.ndindex(2, 3):
        expected = by_the_formula(grouped[..., *index].tolist())
        assert found[index] == pytest.approx(expected, rel=1e-12)


def test_one_draw_per_chain_follows_its_exact_law(rng):
    """With one draw per chain, chains * B / W is an F ratio of independent normals."""
    superchains, chains, components = 8, 64, 400
    draws = rng.normal(size=(superchains * chains, 1, components))
    ratio = chains * (nested_r_hat(draws, superchains) ** 2 - 1)
    law = stats.f(superchains - 1, superchains * (chains - 1))
    assert stats.kstest(ratio, law.cdf).pvalue > FALSE_ALARM


def autoregressive(rng, start, draws, rho=0.95):
    """Chains with a standard normal law that remember their start for long."""
    z, rows = start, []
    for _ in range(draws):
        z = rho * z + np.sqrt(1 - rho**2) * rng.normal(size=z.shape)
        rows.append(z)
    return np.stack(rows, 1)


def test_it_distinguishes_what_r_hat_of_short_chains_cannot(rng):
    superchains, chains, draws = 8, 512, 6
    arrived = autoregressive(rng, rng.normal(size=superchains * chains), draws)
    starts = 3 * rng.normal(size=superchains).repeat(chains)
    on_the_way = autoregressive(rng, starts, draws)
    ordinary = [
        float(summary(to_arviz({"posterior": {"z": z}})).loc["z", "r_hat"])
        for z in (arrived, on_the_way)
    ]
    assert min(ordinary) > 1.01  # no verdict: it calls both bad
    # Effective size of a superchain is at least its chains, so B / W is below an F
    # ratio over them: the threshold is passed with this probability at most.
    law = stats.f(superchains - 1, superchains * (chains - 1))
    assert law.sf(chains * (1.01**2 - 1)) < FALSE_ALARM
    for ranked in (False, True):
        assert nested_r_hat(arrived, superchains, ranked=ranked) < 1.01
        assert nested_r_hat(on_the_way, superchains, ranked=ranked) > 1.1
    one = on_the_way[:, -1:]
    assert np.isnan(summary(to_arviz({"posterior": {"z": one}})).loc["z", "r_hat"])
    assert nested_r_hat(one, superchains) > 1.1


def test_ranks_show_differences_of_scale_and_heavy_tails(rng):
    z = rng.standard_cauchy(size=(512, 4, 2))
    z[:64, :, 0] += 5.0  # one superchain elsewhere, drowned by the tails
    z[:64, :, 1] *= 20.0  # one superchain too wide
    plain, ranked = (nested_r_hat(z, 8, ranked=r) for r in (False, True))
    assert (plain < 1.05).all()
    assert (ranked > 1.05).all()
    grown = np.sign(z) * np.abs(z) ** 3  # ranks do not change
    bulk_only = nested_r_hat(grown[..., 0], 8, ranked=True)
    assert bulk_only == pytest.approx(ranked[0], rel=1e-12)


def test_where_there_is_nothing_to_compare_it_is_nan(rng):
    z = rng.normal(size=(8, 3, 5))
    z[..., 1] = 7.0
    z[2, 1, 2] = np.nan
    z[2, 1, 3] = np.inf
    for ranked in (False, True):
        found = nested_r_hat(z, 4, ranked=ranked)
        assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert np.isnan(nested_r_hat(rng.normal(size=(4, 1)), 4))
    frozen = np.arange(4.0).repeat(2)[:, None] * np.ones((1, 3))
    assert nested_r_hat(frozen, 4) == np.inf


FOUR_PARTS = r"^[^:]+ \(.*\): found .*, expected .*\. [A-Z].*\.$"


@pytest.mark.parametrize("superchains", [1, 0, 3, 16])
def test_chains_that_do_not_divide_are_refused(superchains):
    with pytest.raises(ConfigurationError, match=FOUR_PARTS):
        nested_r_hat(np.zeros((8, 2)), superchains)


def test_draws_without_chains_are_refused():
    with pytest.raises(ShapeError, match=FOUR_PARTS):
        nested_r_hat(np.zeros(8), 2)


def test_the_summary_has_a_column_where_chains_are_grouped(rng):
    draws = {"b": rng.normal(size=(32, 10, 2, 2)), "a": rng.normal(size=(32, 10))}
    draws["b"][:8, :, 1, 0] += 4.0
    attrs = {"superchains": 4, "num_chains": 32}
    idata = to_arviz({"posterior": draws}, attrs=attrs)
    table = summary(idata)
    assert table.columns[-1] == "nested_r_hat"
    for row, value in {
        "a": nested_r_hat(draws["a"], 4, ranked=True),
        "b[1, 0]": nested_r_hat(draws["b"][:, :, 1, 0], 4, ranked=True),
        "b[0, 1]": nested_r_hat(draws["b"][:, :, 0, 1], 4, ranked=True),
    }.items():
        assert table.loc[row, "nested_r_hat"] == pytest.approx(float(value))
    assert table.loc["b[1, 0]", "nested_r_hat"] > 1.1
    assert summary(idata, var_names=["a"]).columns[-1] == "nested_r_hat"
    plain = summary(to_arviz({"posterior": draws}))
    assert "nested_r_hat" not in plain
    assert plain.equals(table.drop(columns="nested_r_hat"))


def test_chains_taken_out_of_a_run_have_no_nested_r_hat(rng):
    attrs = {"superchains": 4, "num_chains": 8}
    idata = to_arviz({"posterior": {"z": rng.normal(size=(8, 10))}}, attrs=attrs)
    assert "nested_r_hat" in summary(idata)
    posterior = get_group(idata, "posterior")
    assert posterior is not None
    assert "nested_r_hat" not in summary(posterior.isel(chain=[0, 3, 4, 5]))
