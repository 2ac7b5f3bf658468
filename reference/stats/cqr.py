"""CQR by MAPIE's ConformalizedQuantileRegressor on given quantiles. Seed 1."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, intervals, rng
from mapie.regression import ConformalizedQuantileRegressor
from split import Given


class Column(Given):
    def __init__(self, column=0):
        self.column = column

    def predict(self, x):
        return np.asarray(x)[:, self.column]


draw = rng(1)
middle = draw.normal(size=(40, 1))
held = np.c_[middle - draw.uniform(0.1, 1, (40, 1)), middle + draw.uniform(0.1, 1, (40, 1)), middle]
new, truths = np.array([[-1.0, 0.5, 0.0], [0.0, 3.0, 1.0], [2.0, 2.1, 2.05]]), middle[:, 0] + draw.normal(size=40)
cases = []
for sides, symmetric in [("both", True), ("each", False)]:
    found = {}
    for alpha in ALPHAS[1:] if sides == "each" else ALPHAS:
        models = [Column(0).fit(held, truths), Column(1).fit(held, truths), Column(2).fit(held, truths)]
        mapie = ConformalizedQuantileRegressor(models, confidence_level=1 - alpha, prefit=True)
        mapie.conformalize(held, truths)
        found[alpha] = mapie.predict_interval(new, symmetric_correction=symmetric)[1][:, :, 0]
    inputs = {"answers": held[:, :2], "truths": truths}
    cases.append(intervals(sides, {"sides": sides}, inputs, new[:, :2], found))
write("stats/cqr", header(__file__, "mapie", 1, {"f64": 1e-12}), cases)
