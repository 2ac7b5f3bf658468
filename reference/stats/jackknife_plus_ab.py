"""Jackknife+-after-bootstrap: a transcription of the paper with linear models on bootstraps. Seed 3."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, intervals, reach, rng
from sklearn.linear_model import LinearRegression

draw = rng(3)
x, new = draw.normal(size=(25, 2)), draw.normal(size=(4, 2))
y = x @ [1.0, -1.0] + draw.normal(size=25)
# Six fits: some rows are in all of them and cannot calibrate.
draws = [draw.integers(25, size=25) for _ in range(6)]
fits = [LinearRegression().fit(x[d], y[d]) for d in draws]
own, fresh = np.column_stack([f.predict(x) for f in fits]), np.column_stack([f.predict(new) for f in fits])
bags = np.column_stack([np.isin(np.arange(25), d) for d in draws])
assert bags.all(1).any()
cases = []
for name, join in [("mean", np.mean), ("median", np.median)]:
    rows = [i for i in range(25) if not bags[i].all()]
    errors = np.array([abs(y[i] - join(own[i, ~bags[i]])) for i in rows])
    found = {}
    for alpha in ALPHAS:
        mass, ones = (1 - alpha) * (len(rows) + 1), np.ones(len(rows))
        centres = [np.array([join(row[~bags[i]]) for i in rows]) for row in fresh]
        found[alpha] = [(-reach(errors - c, ones, mass), reach(c + errors, ones, mass)) for c in centres]
    inputs = {"answers": own, "truths": y, "bags": bags.astype(float)}
    cases.append(intervals(name, {"aggregate": name}, inputs, fresh, found))
source = "a transcription of Kim, Xu and Barber 2020, with scikit-learn's linear models"
write("stats/jackknife_plus_ab", header(__file__, source, 3, {"f64": 1e-12}), cases)
