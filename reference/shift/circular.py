"""Circular validation: skada's scorer (`compat`), and skada's pipeline fitted back from the rows that the fit has seen, by a support
vector machine of scikit-learn behind CORAL. Seed 19.

Where each pair of classes has another winner, the machine's decisions decide, not the order of the classes. In the last cases all of the
target is predicted to be of one class.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import HELD, HELD_LABELS, OFFSET, SOURCE, TARGET, domains, fitted, pipeline, score_case, skada_score
from skada.metrics import CircularValidation
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import SVC

cases = []
for name, svc in [("linear", {"kernel": "linear"}), ("rbf", {"kernel": "rbf", "gamma": 0.7})]:
    learner = SVC(tol=1e-8, break_ties=True, **svc)
    model = fitted(learner)
    cases.append(score_case(f"{name}_compat", {"compat": True}, skada_score(CircularValidation(), model), svc=svc))
    guesses = model.predict(TARGET, sample_domain=np.full(len(TARGET), -2))
    x, y, domain = domains(TARGET, guesses, SOURCE)
    back = pipeline(SVC(tol=1e-8, break_ties=True, **svc)).fit(x, y, sample_domain=domain)
    found = back.predict(HELD, sample_domain=np.full(len(HELD), -2))
    cases.append(score_case(name, {}, balanced_accuracy_score(HELD_LABELS, found), svc=svc))
one = OFFSET + np.array([0, 1000.0, 0])
for compat in [False, True]:
    found = skada_score(CircularValidation(), fitted(offset=one))
    cases.append(score_case(f"one_class_{compat}", {"compat": compat}, found, one))
print([case["expected"] for case in cases])
write("shift/circular", header(__file__, "skada", 19, {"f64": 1e-12}), cases)
