"""Learners under weights, by scikit-learn in f64 with tight tolerances. Seed 8.

Classes and numbers are drawn from clouds that overlap; weights are drawn too, some of them zero. Expected are answers to rows that the fit
has not seen, and for some learners coefficients or the loss at the optimum.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, tensor, write
from sklearn.svm import SVC

rng = np.random.default_rng(8)
cases = []


def table(rows, features, classes):
    """Rows with classes and numbers, weights, and rows to answer."""
    of = np.arange(rows) % classes
    corners = 1.2 * rng.standard_normal((classes, features))
    x = corners[of] + rng.standard_normal((rows, features))
    numbers = x @ rng.standard_normal(features) + np.sin(2 * x[:, 0]) + 0.3 * rng.standard_normal(rows)
    weights = rng.gamma(1.0, 1.0, rows) * (rng.random(rows) > 0.1)
    queries = np.concatenate([corners + 0.5 * rng.standard_normal((classes, features)), x[:4] + 0.1])
    return {"x": x, "classes": of, "numbers": numbers, "weights": weights, "queries": queries}


def add(learner, name, settings, table, expected, weighted):
    """`table` is named once and kept apart from the cases that use it."""
    cases.append({
        "name": f"{learner} {name}{' weighted' if weighted else ''}",
        "learner": learner,
        "config": settings,
        "weighted": weighted,
        "inputs": {key: tensor(np.ascontiguousarray(value)) for key, value in table.items()},
        "expected": {key: tensor(np.ascontiguousarray(value, dtype=np.float64)) for key, value in expected.items()},
    })


two, three = table(40, 2, 2), table(45, 3, 3)


def svc(name, settings, table):
    for weighted in [False, True]:
        kernel, gamma = settings["kernel"], settings.get("gamma", "scale")
        model = SVC(C=settings["c"], kernel=kernel, gamma=gamma, tol=1e-8)
        model.fit(table["x"], table["classes"], sample_weight=table["weights"] if weighted else None)
        values = model.decision_function(table["queries"])
        values = np.stack([-values, values], 1) if values.ndim == 1 else values
        add("svc", name, settings | {"tolerance": 1e-8}, table, {"decisions": values}, weighted)


svc("two classes", {"kernel": "rbf", "c": 1.0}, two)
svc("a wide kernel and a high price", {"kernel": "rbf", "c": 30.0, "gamma": 0.05}, two)
svc("linear", {"kernel": "linear", "c": 0.5}, two)
svc("three classes", {"kernel": "rbf", "c": 2.0, "gamma": 0.4}, three)

head = header(__file__, "scikit-learn", 8, {"f64": 1e-6, "svc": 1e-5})
write("stats/learners", head, cases)
