"""Deep embedded validation: skada's scorer with acclimate's split of the unseen rows and the regression brought to its end (`compat`), and
a transcription of the paper around scikit-learn's logistic regression. Seed 19.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import skada.metrics
from golden import header, write
from shift_scores import HELD, HELD_LABELS, SOURCE, TARGET, fitted, score_case, skada_score, source_probabilities
from skada.metrics import DeepEmbeddedValidation
from sklearn.linear_model import LogisticRegression
from streams import shuffled

model = fitted()


def split(x, y, domain, test_size, random_state):
    order = shuffled(len(x), 0, "dev")
    judged, rest = order[: int(np.ceil(test_size * len(x)))], sorted(order[int(np.ceil(test_size * len(x))) :])
    return x[rest], x[judged], y[rest], y[judged], domain[rest], domain[judged]


def regression(c):
    return LogisticRegression(C=c, tol=1e-12, max_iter=10000, solver="newton-cholesky")


def dev(c, largest):
    shown = model[0].transform(SOURCE, sample_domain=np.full(len(SOURCE), 1), allow_source=True)
    held = model[0].transform(HELD, sample_domain=np.full(len(HELD), 1), allow_source=True)
    target = model[0].transform(TARGET, sample_domain=np.full(len(TARGET), -2))
    of = np.repeat([0, 1], [len(shown), len(target)])
    p = regression(c).fit(np.concatenate([shown, target]), of).predict_proba(held)
    w = len(shown) / len(target) * p[:, 1] / p[:, 0]
    w = w / w.max() if largest else w
    loss = -np.log(source_probabilities(model, HELD)[np.arange(len(HELD)), HELD_LABELS])
    eta = -np.cov(w * loss, w)[0, 1] / np.var(w, ddof=1)
    return -((w * loss).mean() + eta * w.mean() - eta)


skada.metrics.train_test_split = split
cases = [
    score_case(f"c_{c}_compat", {"c": c, "compat": True}, skada_score(DeepEmbeddedValidation(regression(c)), model))
    for c in [1.0, 0.1]
]
cases += [score_case(f"c_{c}", {"c": c}, dev(c, False)) for c in [1.0, 0.1]]
cases.append(score_case("largest", {"weights": "largest"}, dev(1.0, True)))
write("shift/dev", header(__file__, "skada", 19, {"f64": 1e-7}), cases)
