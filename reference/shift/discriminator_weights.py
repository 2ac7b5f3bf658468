"""Discriminator weights: skada's adapter, which inverts them (`compat`), and odds of scikit-learn's classifiers. Seed 8."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import case, domains, skada_weights
from skada import DiscriminatorReweightAdapter
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

data = domains(8)
source, _, target = data
domain = np.r_[np.zeros(len(source)), np.ones(len(target))]
cases = []
for name, make in [("logistic", lambda: LogisticRegression(tol=1e-10)), ("nearest", KNeighborsClassifier)]:
    p = make().fit(np.concatenate([source, target]), domain).predict_proba(source)
    weights = p[:, 1] / np.maximum(p[:, 0], np.finfo(float).eps)
    cases.append(case(name, {"learner": name}, *data, {"weights": weights / weights.mean()}))
weights = skada_weights(DiscriminatorReweightAdapter(LogisticRegression(tol=1e-10)), *data)
cases.append(case("logistic_compat", {"learner": "logistic", "compat": True}, *data, {"weights": weights}))
write("shift/discriminator_weights", header(__file__, "skada", 8, {"f64": 1e-6}), cases)
