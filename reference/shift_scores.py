"""What the scripts of scores below `shift` share: two domains of three classes, rows that a fit has seen and rows that it has not, and a
classifier that is given instead of fitted, behind skada's CORAL. That leaves means where they are, so that domains can be told apart.

A case names the alignment; its learner is the given one, or a support vector machine.
"""

import numpy as np
from golden import tensor
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from skada import CORALAdapter, make_da_pipeline

rng = np.random.default_rng(19)
MEANS = np.array([[0.0, 0.0, 0.5], [2.0, 0.0, 0.0], [0.0, 2.0, -0.5]])


def rows(count, shift):
    labels = rng.permutation(np.arange(count) % 3)
    return MEANS[labels] + rng.normal(size=(count, 3)) * (1 + 0.2 * shift) + shift, labels


(SOURCE, LABELS), (HELD, HELD_LABELS) = rows(36, 0.0), rows(24, 0.0)
(TARGET, _), (TARGET_HELD, _) = rows(30, 0.6), rows(20, 0.6)
MATRIX, OFFSET = 1.2 * (MEANS - MEANS.mean(0)).T + 0.3 * rng.normal(size=(3, 3)), np.array([0.2, -0.1, 0.0])


class Given(ClassifierMixin, BaseEstimator):
    """A softmax of linear scores; nothing is learned."""

    def __init__(self, matrix=None, offset=None):
        self.matrix, self.offset = matrix, offset

    def fit(self, X, y=None):
        self.classes_ = np.arange(3)
        self.fitted_ = True
        return self

    def predict_proba(self, X):
        return softmax(X @ self.matrix + self.offset, axis=1)

    def predict_log_proba(self, X):
        return log_softmax(X @ self.matrix + self.offset, axis=1)

    def predict(self, X):
        return self.predict_proba(X).argmax(1)


def domains(source, labels, target):
    x = np.concatenate([source, target])
    y = np.concatenate([labels, np.full(len(target), -1)])
    return x, y, np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])


def pipeline(learner=None, offset=OFFSET):
    learner = Given(MATRIX, offset) if learner is None else learner
    learner.set_score_request(sample_weight=True)
    return make_da_pipeline(CORALAdapter(reg="auto", assume_centered=True), learner)


def fitted(learner=None, offset=OFFSET):
    x, y, domain = domains(SOURCE, LABELS, TARGET)
    return pipeline(learner, offset).fit(x, y, sample_domain=domain)


def skada_score(scorer, model):
    """A scorer of skada on the unseen rows."""
    x, y, domain = domains(HELD, HELD_LABELS, TARGET_HELD)
    return scorer._score(model, x, y, sample_domain=domain)



def source_probabilities(model, x):
    return model.predict_proba(x, sample_domain=np.full(len(x), 1), allow_source=True)


def probabilities(model, x):
    return model.predict_proba(x, sample_domain=np.full(len(x), -2))


def score_case(name, settings, score, offset=OFFSET, svc=None):
    """`svc` says the settings of a support vector machine in place of the given classifier."""
    inputs = {
        "source": tensor(SOURCE),
        "labels": LABELS.tolist(),
        "held": tensor(HELD),
        "held_labels": HELD_LABELS.tolist(),
        "target": tensor(TARGET),
        "target_held": tensor(TARGET_HELD),
        "alignment": {"name": "coral", "estimate": "ledoit_wolf", "centred": True, "compat": True},
    }
    inputs |= {"svc": svc} if svc else {"matrix": tensor(MATRIX), "offset": tensor(offset)}
    return {"name": name, "config": settings, "inputs": inputs, "expected": {"score": float(score)}}
