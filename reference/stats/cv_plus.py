"""CV+ by MAPIE's CrossConformalRegressor with linear models; their predictions are given to us. Seed 2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, intervals, rng
from mapie.regression import CrossConformalRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold


def run(folds):
    draw = rng(2)
    x, new = draw.normal(size=(30, 3)), draw.normal(size=(4, 3))
    y = x @ [1.0, -1.0, 0.5] + draw.normal(size=30)
    own, of, fresh = np.zeros((30, 1)), np.zeros(30, int), np.zeros((4, folds))
    cv = KFold(folds)
    for k, (train, held) in enumerate(cv.split(x)):
        fit = LinearRegression().fit(x[train], y[train])
        own[held, 0], of[held], fresh[:, k] = fit.predict(x[held]), k, fit.predict(new)
    found = {}
    for alpha in ALPHAS:
        mapie = CrossConformalRegressor(LinearRegression(), confidence_level=1 - alpha, method="plus", cv=cv)
        found[alpha] = mapie.fit_conformalize(x, y).predict_interval(new)[1][:, :, 0]
    inputs = {"answers": own, "truths": y, "folds": of}
    return intervals(f"folds_{folds}", {}, inputs, fresh, found)


if __name__ == "__main__":
    write("stats/cv_plus", header(__file__, "mapie", 2, {"f64": 1e-12}), [run(5), run(10)])
