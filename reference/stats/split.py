"""Split conformal prediction by MAPIE's SplitConformalRegressor on given predictions; under a scale a transcription of the paper. Seed 0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, conformal, intervals, rng
from sklearn.base import BaseEstimator, RegressorMixin


class Given(RegressorMixin, BaseEstimator):
    """A model that answers with the first column."""

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, x):
        return np.asarray(x)[:, 0]


def main():
    from mapie.regression import SplitConformalRegressor

    draw = rng(0)
    held, new, truths = draw.normal(size=(30, 1)), draw.normal(size=(4, 1)), draw.normal(size=30)
    found = {}
    for alpha in ALPHAS:
        mapie = SplitConformalRegressor(Given().fit(held, truths), confidence_level=1 - alpha, prefit=True)
        found[alpha] = mapie.conformalize(held, truths).predict_interval(new)[1][:, :, 0]
    cases = [intervals("absolute", {}, {"answers": held, "truths": truths}, new, found)]
    held, new = np.c_[held, draw.uniform(0.2, 2, 30)], np.c_[new, draw.uniform(0.2, 2, 4)]
    for floor in [0.0, 0.3]:
        scores = np.abs(truths - held[:, 0]) / (held[:, 1] + floor)
        found = {}
        for alpha in [0.01] + ALPHAS:
            q = conformal(scores, alpha)
            found[alpha] = [(m - q * (s + floor), m + q * (s + floor)) for m, s in new]
        cases.append(intervals(f"scaled_{floor}", {"floor": floor}, {"answers": held, "truths": truths}, new, found))
    write("stats/split", header(__file__, "mapie", 0, {"f64": 1e-12}), cases)


if __name__ == "__main__":
    main()
