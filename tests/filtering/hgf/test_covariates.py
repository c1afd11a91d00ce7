"""Designs by formula against matrices written by hand, and regressions in models."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, CovariateError
from pyro_geo.filtering.hgf.covariates import design, parse_formula
from pyro_geo.filtering.hgf.regression import SubjectRegression

TABLE = {
    "subject": ["s1", "s2", "s3", "s4"],
    "age": [20.0, 30.0, 40.0, 50.0],
    "group": ["patient", "control", "sibling", "control"],
    "drug": [True, False, True, True],
    "site": [2, 1, 1, 2],
}


def test_formulas_are_read():
    found = parse_formula(" omega~age + group:scale(age) + (1 | site) + 0+age")
    assert found.response == "omega"
    assert not found.intercept
    assert found.terms == (("age",), ("group", "scale(age)"))
    assert found.groups == ("site",)
    crossed = parse_formula("x ~ b * a").terms
    assert crossed == (("b",), ("a",), ("b", "a"))


@pytest.mark.parametrize(
    "text", ["omega", "omega ~", "~ age", "omega ~ log(age)", "a b ~ age", "o ~ (1|)"]
)
def test_other_texts_are_refused(text: str):
    with pytest.raises(CovariateError, match="not understood"):
        parse_formula(text)


def test_numbers_categories_and_truth_values_become_columns():
    found = design("omega ~ 1 + age + group + drug", TABLE)
    names = ("intercept", "age", "group_patient", "group_sibling", "drug_True")
    assert found.columns == names
    expected = [
        [1.0, 20.0, 1.0, 0.0, 1.0],
        [1.0, 30.0, 0.0, 0.0, 0.0],
        [1.0, 40.0, 0.0, 1.0, 1.0],
        [1.0, 50.0, 0.0, 0.0, 1.0],
    ]
    assert found.matrix.tolist() == expected
    assert design("omega ~ 1", TABLE).matrix.tolist() == [[1.0]] * 4


def test_a_data_frame_is_a_table():
    frame = pd.DataFrame(TABLE)
    one, two = design("o ~ age * drug", frame), design("o ~ age * drug", TABLE)
    assert (
        one.columns == two.columns == ("intercept", "age", "drug_True", "age_drug_True")
    )
    assert torch.equal(one.matrix, two.matrix)


def test_without_an_intercept_each_category_has_a_coefficient():
    found = design("omega ~ 0 + group + drug", TABLE)
    names = ("group_control", "group_patient", "group_sibling", "drug_True")
    assert found.columns == names
    assert (found.matrix[:, :3].sum(-1) == 1).all()


def test_functions_and_interactions():
    found = design(
        "omega ~ scale(age) + center(age):C(site)", TABLE, dtype=torch.float64
    )
    assert found.columns == ("intercept", "age", "age_site_2")
    age = torch.tensor([-15.0, -5.0, 5.0, 15.0], dtype=torch.float64)
    torch.testing.assert_close(found.matrix[:, 1], age / math.sqrt(125))
    assert found.matrix[:, 2].tolist() == [-15.0, 0.0, 0.0, 15.0]
    with pytest.raises(CovariateError, match="not numeric"):
        design("omega ~ scale(group)", TABLE)


def test_rows_are_put_in_the_order_of_the_data():
    order = ["s3", "s1"]
    found = design("omega ~ 0 + age", TABLE, subjects=order, by="subject")
    assert found.matrix.flatten().tolist() == [40.0, 20.0]
    with pytest.raises(CovariateError, match="subject s9 has 0 rows"):
        design("omega ~ age", TABLE, subjects=["s9"], by="subject")
    twice = {**TABLE, "subject": ["s1", "s1", "s3", "s4"]}
    with pytest.raises(CovariateError, match="subject s1 has 2 rows"):
        design("omega ~ age", twice, subjects=["s1"], by="subject")
    with pytest.raises(CovariateError, match="covariate name is not in the table"):
        design("omega ~ age", TABLE, subjects=["s1"], by="name")


def test_a_missing_covariate_is_refused_by_name():
    with pytest.raises(CovariateError, match=r"covariate iq is not in the table"):
        design("omega ~ age + iq", TABLE)
    with pytest.raises(CovariateError, match=r"age is missing(.|\n)*row 2"):
        design("omega ~ age", {**TABLE, "age": [20.0, 30.0, math.nan, 1.0]})
    with pytest.raises(CovariateError, match=r"group is missing(.|\n)*row 1"):
        design("omega ~ group", {**TABLE, "group": ["a", None, "b", "b"]})
    with pytest.raises(CovariateError, match=r"site is missing(.|\n)*row 3"):
        design("omega ~ (1 | site)", {**TABLE, "site": ["a", "b", "a", None]})
    frame = pd.DataFrame(TABLE)
    frame.loc[1, "group"] = pd.NA
    with pytest.raises(CovariateError, match=r"group is missing(.|\n)*row 1"):
        design("omega ~ group", frame)
    with pytest.raises(CovariateError, match="different lengths"):
        design("omega ~ age + drug", {**TABLE, "age": [1.0]})


def test_a_missing_value_outside_the_formula_or_the_data_is_no_matter():
    table = {**TABLE, "age": [20.0, math.nan, 40.0, 50.0]}
    assert len(design("omega ~ group", table).matrix) == 4
    found = design("omega ~ age", table, subjects=["s1", "s4"], by="subject")
    assert found.matrix[:, 1].tolist() == [20.0, 50.0]


def test_a_regression_is_its_formula():
    kappa = SubjectRegression(
        "kappa ~ 1 + scale(age) + group + (1 | site)",
        TABLE,
        link=torch.exp,
        intercept=dist.Normal(-1.0, 2.0),
        priors={"age": dist.Laplace(0.0, 1.0)},
    )
    values = {
        "kappa_intercept": torch.tensor(0.5),
        "kappa_age": torch.tensor(0.3),
        "kappa_group_patient": torch.tensor(-1.0),
        "kappa_group_sibling": torch.tensor(2.0),
        "kappa_site_sd": torch.tensor(0.7),
        "kappa_site_z": torch.tensor([1.0, -2.0]),
        "kappa_sd": torch.tensor(0.2),
        "kappa_z": torch.tensor([1.0, 0.0, -1.0, 2.0]),
    }
    trace = poutine.trace(poutine.condition(kappa, data=values)).get_trace()
    latent = {
        name
        for name, node in trace.nodes.items()
        if node.get("type") == "sample" and not name.startswith("_")
    }
    assert latent == {*values, "kappa"}
    age = torch.tensor([-15.0, -5.0, 5.0, 15.0]) / math.sqrt(125)
    group = torch.tensor([-1.0, 0.0, 2.0, 0.0])
    site = 0.7 * torch.tensor([-2.0, 1.0, 1.0, -2.0])
    rest = 0.2 * values["kappa_z"]
    expected = torch.exp(0.5 + 0.3 * age + group + site + rest)
    torch.testing.assert_close(trace.nodes["kappa"].get("value"), expected)
    assert isinstance(trace.nodes["kappa_age"].get("fn"), dist.Laplace)


@pytest.mark.parametrize("plated", [False, True])
def test_it_runs_in_models_of_many_chains(plated: bool):
    torch.set_default_dtype(torch.float64)
    omega = SubjectRegression("omega ~ 1 + scale(age)", TABLE)

    def model(y: torch.Tensor) -> None:
        subjects = pyro.plate("subjects", 4)
        mean = omega(subjects) if plated else omega()
        with subjects:
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    y = torch.tensor([0.0, 1.0, 2.0, 4.0])
    target = Target.from_model(model, y, compile=False)
    _, slope = target.value_and_grad(torch.zeros(3, target.dim))
    assert target.dim == 7
    assert slope.isfinite().all()
    drawn = Predictive(model, num_samples=5, return_sites=["omega", "y"])(y)
    # Pyro leaves an axis of length one for a plate that a site is outside of
    assert drawn["omega"].squeeze(1).shape == (5, 4)


def test_subjects_may_differ_by_their_covariates_alone():
    found = SubjectRegression("omega ~ age", TABLE, spread=None)
    trace = poutine.trace(found).get_trace()
    assert "omega_sd" not in trace.nodes
    assert np.linalg.matrix_rank(found.design.matrix.numpy()) == 2
    with pytest.raises(ConfigurationError, match="agee"):
        SubjectRegression("o ~ age", TABLE, priors={"agee": dist.Normal(0.0, 1.0)})
