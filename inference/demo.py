"""A posterior, an ensemble at its minima and a certificate, in one report.

    python inference/demo.py models/eight_schools.py models/digits_classifier.py

The first model gets its posterior by HMC and predictive checks. The second, of images,
gets an ensemble of minima by DiMS, which is scored beside plain baselines and certified
on images that nothing has seen.
"""

import argparse
import runpy
from pathlib import Path

from pyro_geo import Target
from pyro_geo.evaluation.comparison import predict, score_table
from pyro_geo.evaluation.pictures import least_sure, reliability
from pyro_geo.evaluation.predictive_checks import predictive_checks
from pyro_geo.infer import DIMS, HMC, MCMC
from pyro_geo.infer.certificates import certify_holdout


def main() -> None:
    parser = argparse.ArgumentParser(description="A first look at the library")
    parser.add_argument("posterior", help="path of a model with one observed site")
    parser.add_argument("images", help="path of a classifier of square images")
    parser.add_argument("--samples", type=int, default=100, help="draws of a chain")
    parser.add_argument("--members", type=int, default=4, help="minima of each anchor")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="demo_report", help="folder of the report")
    given = parser.parse_args()
    first, second = runpy.run_path(given.posterior), runpy.run_path(given.images)
    kernel = HMC(first["model"], target_accept_prob=0.95)
    fit = MCMC(kernel, given.samples, num_chains=64, seed=given.seed)
    fit.run(*first["data"]())
    ((site, seen),) = fit.target.observed.items()
    checks = predictive_checks(seen, fit.posterior_predictive()[site])

    kernel = DIMS(second["model"], **second["options"]())
    members = MCMC(kernel, given.members, num_chains=4, seed=given.seed)
    q = members.run(*second["data"]()).positions.flatten(0, 1)
    x, y = second["held_out"]()  # every other image to look at, the rest to certify on
    parts = (Target.from_model(second["model"], x[i::2], y[i::2]) for i in (0, 1))
    test, unseen = parts
    scores = score_table(members.target, test, {"DiMS": q}, seed=given.seed)
    scores.loc["DiMS", "cpu_s"] = members.cpu_seconds
    ours, certificate = predict(test, q), certify_holdout(predict(unseen, q).wrong)
    tables = {"Posterior": fit.summary(), "Predictive checks": checks, "Scores": scores}
    for title, rows in tables.items():
        print(f"\n{title}\n{rows.round(3).to_string()}")
    print(f"\n{certificate.summary}")
    shown = {**tables, "Certificate": [certificate.to_dict()]}
    pixels = x[::2].unflatten(-1, (-1, round(x.shape[-1] ** 0.5)))
    curves, images = [reliability({"DiMS": ours})], [least_sure(ours, pixels)]
    path = Path(given.out) / "report.html"
    print("\nReport:", members.report(path, shown, curves, images=images))


if __name__ == "__main__":
    main()
