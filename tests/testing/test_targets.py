"""Known targets: density, draws and map to the normal agree with each other."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.testing.gates import check_covariance
from pyro_geo.testing.targets import (
    BananaTarget,
    FunnelTarget,
    GammaTarget,
    MixtureTarget,
    NormalTarget,
    StudentTTarget,
)

F64 = torch.float64
TARGETS = {
    "normal": lambda: NormalTarget(3, loc=-1.0, scale=0.5, dtype=F64),
    "correlated": lambda: NormalTarget(3, condition=100.0, rotation=1, dtype=F64),
    "ill_conditioned": lambda: NormalTarget(4, condition=1e8, rotation=2, dtype=F64),
    "scales": lambda: NormalTarget(4, condition=1e8, dtype=F64),
    "funnel": lambda: FunnelTarget(3, dtype=F64),
    "student": lambda: StudentTTarget(3, df=5.0, dtype=F64),
    "cauchy": lambda: StudentTTarget(2, df=1.0, dtype=F64),
    "banana": lambda: BananaTarget(3, scale=3.0, bend=0.2, dtype=F64),
    "mixture": lambda: MixtureTarget(2, dtype=F64),
    "modes": lambda: MixtureTarget(2, separation=12.0, weight=0.1, dtype=F64),
    "gamma": lambda: GammaTarget(2, shape=2.5, rate=0.5, dtype=F64),
}


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]()


def draws(target, count, seed=0):
    return target.sample(count, torch.Generator().manual_seed(seed))


def test_exact_draws_map_to_independent_standard_normals(target):
    z = target.to_normal(draws(target, 4000))
    check_covariance(z, torch.eye(target.dim))
    # a moment may miss a shape; false alarm one in 10^4 for each coordinate
    for column in z.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-4


def test_the_density_is_the_transformed_normal_one(target):
    """Change of variables, the Jacobian by finite differences."""
    for q in draws(target, 5, seed=1):
        columns = []
        for i in range(target.dim):
            h = torch.zeros_like(q)
            h[i] = 1e-5 * math.sqrt(float(target.covariance[i, i].nan_to_num(posinf=1)))
            columns.append((target.to_normal(q + h) - target.to_normal(q - h)) / 2)
            columns[-1] /= h[i]
        log_jacobian = torch.linalg.slogdet(torch.stack(columns, 1)).logabsdet
        z = target.to_normal(q)
        expected = -0.5 * (z * z).sum() - 0.5 * len(q) * math.log(2 * math.pi)
        found = float(target.log_prob(q[None]))
        assert found == pytest.approx(float(expected + log_jacobian), rel=1e-6)


def test_moments_are_those_of_the_draws(target):
    if not target.covariance.isfinite().all():
        pytest.skip("no moments")
    if isinstance(target, FunnelTarget):  # their own errors have no error bar
        target = FunnelTarget(3, scale=0.5, dtype=F64)
    q = draws(target, 20_000, seed=2)
    scale = target.covariance.diagonal().sqrt()
    correlation = target.covariance / scale / scale[:, None]
    check_covariance((q - target.mean) / scale, correlation)


def test_densities_agree_with_scipy():
    scipy: Any = stats  # whose own annotations are of its defaults
    q = draws(StudentTTarget(3, df=5.0, dtype=F64), 50)
    expected = scipy.multivariate_t(shape=np.eye(3), df=5).logpdf(q.numpy())
    found = StudentTTarget(3, df=5.0, dtype=F64).log_prob(q)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    normal = NormalTarget(3, condition=50.0, rotation=4, loc=2.0, dtype=F64)
    law = scipy.multivariate_normal(normal.mean.numpy(), normal.covariance.numpy())
    np.testing.assert_allclose(normal.log_prob(q), law.logpdf(q.numpy()), rtol=1e-10)
    gamma = GammaTarget(1, shape=2.5, rate=0.5, dtype=F64)
    expected = scipy.loggamma(2.5, scale=1, loc=math.log(2)).logpdf(q[:, 0].numpy())
    np.testing.assert_allclose(gamma.log_prob(q[:, :1]), expected, rtol=1e-10)


def test_marginals_have_known_quantiles():
    levels = torch.tensor([[0.001], [0.3], [0.999]], dtype=F64)
    cauchy = StudentTTarget(1, df=1.0, dtype=F64)
    quantiles = torch.tan(math.pi * (levels - 0.5))
    torch.testing.assert_close(torch.special.ndtr(cauchy.to_normal(quantiles)), levels)
    funnel = FunnelTarget(2, dtype=F64)
    v = 3 * torch.special.ndtri(levels)
    q = torch.cat([v, torch.ones_like(v)], 1)
    torch.testing.assert_close(torch.special.ndtr(funnel.to_normal(q))[:, :1], levels)


def test_scores_stay_finite_far_out():
    far = torch.tensor([[-30.0, 0.0], [30.0, 0.0]], dtype=F64)
    for make in (MixtureTarget, StudentTTarget):
        z = make(2, dtype=F64).to_normal(far)[:, 0]
        assert z.isfinite().all()
        assert z[0] < -3
        assert z[1] > 3


def test_the_condition_number_is_the_one_passed():
    target = NormalTarget(5, condition=1e8, rotation=0, dtype=F64)
    values = torch.linalg.eigvalsh(target.covariance)
    assert float(values[-1] / values[0]) == pytest.approx(1e8, rel=1e-6)
    assert target.covariance[0, 1] != 0


def test_gradients_are_those_of_the_density(target):
    q = draws(target, 4, seed=3)
    value, grad = target.value_and_grad(q)
    step = 1e-5 * target.covariance.diagonal().nan_to_num(posinf=1.0).sqrt()
    for i in range(target.dim):
        h = torch.zeros_like(q)
        h[:, i] = step[i]
        slope = (target.log_prob(q + h) - target.log_prob(q - h)) / (2 * step[i])
        torch.testing.assert_close(grad[:, i], slope, rtol=1e-4, atol=1e-5)
    assert value.isfinite().all()


def test_targets_pickle_and_keep_their_dtype(target):
    again = pickle.loads(pickle.dumps(target))
    q = draws(again, 3)
    assert torch.equal(again.log_prob(q), target.log_prob(q))
    assert FunnelTarget(2).sample(2).dtype == torch.float32


def test_draws_depend_on_the_generator_alone(target):
    before = torch.random.get_rng_state()
    assert torch.equal(draws(target, 5), draws(target, 5))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: NormalTarget(0), "dim"),
        (lambda: NormalTarget(2, condition=0.5), "condition"),
        (lambda: NormalTarget(2, scale=0.0), "scale"),
        (lambda: FunnelTarget(1), "dim"),
        (lambda: BananaTarget(1), "dim"),
        (lambda: StudentTTarget(df=0.0), "df"),
        (lambda: MixtureTarget(weight=1.0), "weight"),
        (lambda: GammaTarget(shape=-1.0), "shape"),
    ],
)
def test_options_out_of_range_are_named(make, name):
    with pytest.raises(ConfigurationError, match=f"argument {name}.*expected"):
        make()
