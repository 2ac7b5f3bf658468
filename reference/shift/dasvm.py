"""DASVM around scikit-learn's SVC: skada's class (`compat`), and the page's steps with `swap` rows a side. Seed 18.

Expected are the labels that the target has at the end, how many fits were made and how many rows of the source were left.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import case
from skada._self_labeling import DASVMClassifier
from sklearn.svm import SVC

rng = np.random.default_rng(18)


def domain(rows, turn):
    labels = np.arange(rows) % 2
    x = rng.normal(size=(rows, 2)) * [0.8, 0.5] + np.where(labels[:, None] == 1, [0.9, 0.3], [-0.9, -0.3])
    return x @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]), labels


(source, labels), (target, _) = domain(60, 0.0), domain(50, 0.8)
svc = {"kernel": "linear", "C": 1.0, "tol": 1e-8}


def skada(steps):
    rows = np.concatenate([source, target])
    y = np.concatenate([labels, np.full(len(target), -1)])
    side = np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])
    found = DASVMClassifier(SVC(**svc), max_iter=steps, save_estimators=True, save_indices=True)
    found.fit(rows, y, sample_domain=side)
    last = found.estimators[-2]
    left = (~found.indices_source_deleted[-2]).sum()
    return last.predict(target), len(found.estimators) - 1, left


def dasvm(swap, steps):
    kept, taken = np.full(len(source), True), np.full(len(target), False)
    model = SVC(**svc).fit(source, labels)
    fits = 1

    def farthest(f, allowed):
        rows = np.flatnonzero(allowed)
        below, above = rows[f[rows] < 0], rows[f[rows] > 0]
        below, above = below[np.argsort(f[below])], above[np.argsort(-f[above])]
        return np.concatenate([below[:swap], above[:swap]])

    while True:
        kept[farthest(model.decision_function(source), kept)] = False
        f = model.decision_function(target)
        found = farthest(f, ~taken & (np.abs(f) < 1))
        taken[found] = True
        if len(found) == 0 or fits == steps:
            return model.predict(target), fits, kept.sum()
        guesses = model.predict(target)
        y = np.concatenate([labels[kept], guesses[taken]])
        if len(set(y)) < 2:
            return model.predict(target), fits, kept.sum()
        model = SVC(**svc).fit(np.concatenate([source[kept], target[taken]]), y)
        fits += 1
        taken &= model.predict(target) == guesses


cases = []
for steps in [1, 4, 200]:
    found, fits, left = skada(steps)
    print("skada", steps, fits, left, found.sum(), (found != SVC(**svc).fit(source, labels).predict(target)).sum())
    expected = {"labels": found, "fits": [float(fits)], "left": [float(left)]}
    cases.append(case(f"steps_{steps}_compat", {"steps": steps, "compat": True}, source, labels, target, expected))
for swap, steps in [(1, 200), (3, 3), (3, 200), (5, 200)]:
    found, fits, left = dasvm(swap, steps)
    print("ours", swap, steps, fits, left, found.sum(), (found != SVC(**svc).fit(source, labels).predict(target)).sum())
    expected = {"labels": found, "fits": [float(fits)], "left": [float(left)]}
    cases.append(case(f"swap_{swap}_steps_{steps}", {"swap": swap, "steps": steps}, source, labels, target, expected))
write("shift/dasvm", header(__file__, "skada", 18, {"f64": 0.0}), cases)
