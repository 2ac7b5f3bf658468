"""JDOT by skada's solvers around scikit-learn's logistic regression, support vector machine and ridge regression. Seed 35.

skada's hinge loss prices both of two classes alike: its case is a compat one. A machine that gives a decision for each class puts that right.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, tensor, write
from shift_domains import domains
from shift_transport import transported
from skada._ot import (
    get_data_jdot_class,
    get_jdot_class_cost_matrix,
    solve_jdot_classification,
    solve_jdot_regression,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC


class TwoSided(SVC):
    """Decides for each of two classes."""

    def decision_function(self, x):
        decisions = super().decision_function(x)
        return np.stack([-decisions, decisions], axis=1)


END = {"n_iter_max": 100, "tol": 1e-13}


def classes(name, estimator, learner, alpha, metric, three=False, compat=False):
    source, labels, target = domains(35, sources=60, targets=45, shift=0.6)
    if three:
        labels = labels + (source[:, 1] > 0.7) * (2 - labels)
    fitted, _, losses, solution = solve_jdot_classification(estimator, source, labels, target, alpha, metric=metric, **END)
    count = labels.max() + 1
    shares = solution.plan.T @ np.eye(count)[labels] * len(target)
    rows, of, weights = get_data_jdot_class(target, shares, np.arange(count))
    expected = {"lesson": rows, "labels": of.astype(float), "weights": weights}
    settings = {"alpha": alpha, "loss": {"multinomial": "cross_entropy"}.get(metric, metric), "tolerance": 1e-13}
    if compat:
        prices = get_jdot_class_cost_matrix(np.eye(count)[labels], target, fitted, metric)
        assert np.ptp(prices, axis=0).max() == 0, "the class matters after all"
        settings["compat"] = True
    found = transported(name, settings, source, labels, target, expected)
    found["learner"] = learner
    return found


cases = []
for alpha in [0.1, 0.5, 0.9]:
    logistic = LogisticRegression(tol=1e-12, max_iter=10_000)
    cases.append(classes(f"logistic_{alpha}", logistic, "logistic", alpha, "multinomial"))
cases.append(classes("logistic_three", LogisticRegression(tol=1e-12, max_iter=10_000), "logistic", 0.5, "multinomial", True))
cases.append(classes("svc_compat", SVC(gamma=0.5, tol=1e-9), "svc", 0.5, "hinge", compat=True))
for alpha in [0.3, 0.7]:
    cases.append(classes(f"svc_{alpha}", TwoSided(gamma=0.5, tol=1e-9), "svc", alpha, "hinge"))
cases.append(classes("svc_three", SVC(gamma=0.5, tol=1e-9), "svc", 0.5, "hinge", True))

source, _, target = domains(36, sources=40, targets=50, features=3)
y = source @ [1.0, -0.5, 0.2] + 0.2 * np.random.default_rng(36).normal(size=40)
for alpha in [0.1, 0.5, 0.9]:
    _, _, _, solution = solve_jdot_regression(Ridge(alpha=1.0), source, y, target, alpha, **END)
    expected = {"lesson": target, "numbers": solution.plan.T @ y * len(target)}
    case = transported(f"ridge_{alpha}", {"alpha": alpha, "tolerance": 1e-13}, source, y, target, expected)
    case["learner"] = "ridge"
    case["inputs"] |= {"labels": [], "numbers": tensor(y)}
    cases.append(case)
write("shift/jdot", header(__file__, "skada", 35, {"f64": 1e-10}), cases)
