"""LAC by MAPIE's SplitConformalClassifier on given probabilities. Seed 4."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, probabilities, sets
from sklearn.base import BaseEstimator, ClassifierMixin


class Given(ClassifierMixin, BaseEstimator):
    """A model that answers with its input as probabilities."""

    def fit(self, x, y):
        self.classes_ = np.arange(np.asarray(x).shape[1])
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, x):
        return np.asarray(x)

    def predict(self, x):
        return np.asarray(x).argmax(1)


def run(score, seed, **how):
    from mapie.classification import SplitConformalClassifier

    (held, truths), (new, _) = probabilities(seed, 60, 4), probabilities(seed + 1000, 12, 4)
    found = {}
    for alpha in ALPHAS:
        model = Given().fit(held, truths)
        mapie = SplitConformalClassifier(model, confidence_level=1 - alpha, conformity_score=score, prefit=True)
        mapie.conformalize(held, truths)
        found[alpha] = mapie.predict_set(new, **how)[1][:, :, 0]
    return held, truths, new, found


if __name__ == "__main__":
    cases = [sets(f"seed_{seed}", {}, *run("lac", seed)) for seed in [4, 5]]
    write("stats/lac", header(__file__, "mapie", 4, {"f64": 0.0}), cases)
