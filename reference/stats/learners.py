"""Learners under weights, by scikit-learn in f64 with tight tolerances, and by XGBoost, which computes in f32. Seed 8.

Classes and numbers are drawn from clouds that overlap; weights are drawn too, some of them zero. Expected are answers to rows that the fit
has not seen, and for some learners coefficients or the loss at the optimum.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import xgboost
from golden import header, tensor, write
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from xgboost import XGBClassifier

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
    cases.append({
        "name": f"{learner} {name}{' weighted' if weighted else ''}",
        "learner": learner,
        "config": settings,
        "weighted": weighted,
        "table": "two" if table is two else "three",
        "expected": {key: tensor(np.ascontiguousarray(value, dtype=np.float64)) for key, value in expected.items()},
    })


two, three = table(40, 2, 2), table(45, 3, 3)
two["logits"] = two["x"][:, 0] + two["x"][:, 1]
three["logits"] = 2.0 * three["x"] - three["x"].mean()
for name, of in [("two", two), ("three", three)]:
    inputs = {key: tensor(np.ascontiguousarray(value)) for key, value in of.items()}
    cases.append({"name": name, "learner": "a table", "inputs": inputs})


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



def kept(table, weighted):
    """Rows with weight: scikit-learn's trees count the others among the rows that a threshold lies between."""
    rows = table["weights"] > 0 if weighted else np.full(len(table["x"]), True)
    return table["x"][rows], table["classes"][rows], table["numbers"][rows], table["weights"][rows] if weighted else None


def column(values):
    return np.asarray(values).reshape(-1, 1)


def classifier(learner, name, settings, model, table, weights=(False, True)):
    for weighted in weights:
        x, classes, _, w = kept(table, weighted)
        model.fit(x, classes) if w is None else model.fit(x, classes, sample_weight=w)
        add(learner, name, settings, table, {"answers": model.predict_proba(table["queries"])}, weighted)


def regressor(learner, name, settings, model, table, weights=(False, True)):
    for weighted in weights:
        x, _, numbers, w = kept(table, weighted)
        model.fit(x, numbers) if w is None else model.fit(x, numbers, sample_weight=w)
        add(learner, name, settings, table, {"answers": column(model.predict(table["queries"]))}, weighted)


for name, c, of in [("two classes", 1.0, two), ("a high price", 100.0, two), ("three classes", 0.3, three)]:
    classifier("logistic", name, {"c": c}, LogisticRegression(C=c, tol=1e-12, max_iter=100000), of)

regressor("linear", "with a constant", {}, LinearRegression(), three)
regressor("linear", "without", {"intercept": False}, LinearRegression(fit_intercept=False), three)
regressor("ridge", "with a constant", {"penalty": 3.0}, Ridge(3.0, solver="svd"), three)
regressor("ridge", "without", {"penalty": 0.5, "intercept": False}, Ridge(0.5, fit_intercept=False, solver="svd"), three)
rbf = {"kernel": "rbf", "penalty": 0.7, "gamma": 0.3}
regressor("kernel_ridge", "rbf", rbf, KernelRidge(alpha=0.7, kernel="rbf", gamma=0.3), three)
regressor("kernel_ridge", "linear", {"kernel": "linear", "penalty": 2.0}, KernelRidge(alpha=2.0), three)
classifier("nearest", "classes", {"neighbours": 5}, KNeighborsClassifier(5), three, [False])
regressor("nearest", "numbers", {"neighbours": 7}, KNeighborsRegressor(7), three, [False])

for depth, leaf in [(2, 1), (3, 4)]:
    settings = {"depth": depth, "min_leaf": float(leaf)}
    shape = {"max_depth": depth, "min_samples_leaf": leaf, "random_state": 0}
    classifier("tree", f"classes {depth}", settings, DecisionTreeClassifier(**shape), two, [False])
    regressor("tree", f"numbers {depth}", settings, DecisionTreeRegressor(**shape), three, [False])
# The least weight of a leaf is a count of rows there and a sum of weights here.
shape = {"max_depth": 2, "random_state": 0}
classifier("tree", "classes", {"depth": 2}, DecisionTreeClassifier(**shape), two, [True])
regressor("tree", "numbers", {"depth": 2}, DecisionTreeRegressor(**shape), three, [True])

for name, of in [("two classes", two), ("three classes", three)]:
    settings = {"steps": 6, "lr": 0.3, "depth": 3, "min_leaf": 0.5, "penalty": 1.0}
    shape = {"n_estimators": 6, "learning_rate": 0.3, "max_depth": 3, "min_child_weight": 0.5, "reg_lambda": 1.0}
    classifier("boosted", name, settings, XGBClassifier(**shape, tree_method="exact", base_score=0.5, n_jobs=1), of)

for level in [0.1, 0.5, 0.8]:
    for weighted in [False, True]:
        x, _, numbers, w = kept(three, weighted)
        w = np.ones(len(x)) if w is None else w
        model = QuantileRegressor(quantile=level, alpha=0.0).fit(x, numbers, sample_weight=w)
        residual = numbers - model.predict(x)
        loss = np.sum(w * np.maximum(level * residual, (level - 1) * residual))
        add("quantile_regression", f"level {level}", {"level": level}, three, {"loss": loss}, weighted)

# Scaled logits: a transcription of the loss, in the hands of scipy.
for weighted in [False, True]:
    w = three["weights"] if weighted else np.ones(len(three["x"]))
    logits, of = three["logits"], three["classes"]

    def loss(sharpness, biases):
        return -np.sum(w * log_softmax(sharpness * logits + biases, 1)[np.arange(len(of)), of])

    tight = {"method": "BFGS", "options": {"gtol": 1e-9}}
    one = minimize(lambda p: loss(p[0], 0.0), [1.0], **tight).x
    add("temperature", "three classes", {}, three, {"temperature": 1 / one}, weighted)
    all_ = minimize(lambda p: loss(p[0], np.append(p[1:], -p[1:].sum())), [1.0, 0.0, 0.0], **tight).x
    expected = {"temperature": 1 / all_[:1], "biases": np.append(all_[1:], -all_[1:].sum())}
    add("bcts", "three classes", {}, three, expected, weighted)
    values, w = two["logits"], two["weights"] if weighted else np.ones(len(two["x"]))
    above, below = (np.sum(w[two["classes"] == of]) for of in [1, 0])
    target = np.where(two["classes"] == 1, (above + 1) / (above + 2), 1 / (below + 2))

    def cross(p):
        z = p[0] * values + p[1]
        return np.sum(w * (np.logaddexp(0, z) - target * z))

    slope, offset = minimize(cross, [0.0, 0.0], **tight).x
    add("platt", "two classes", {}, two, {"slope": slope, "offset": offset}, weighted)

tolerance = {"f64": 1e-6, "svc": 1e-5, "boosted": 1e-5}
head = header(__file__, "scikit-learn", 8, tolerance, boosted=f"package xgboost-cpu {xgboost.__version__}")
write("stats/learners", head, cases)
