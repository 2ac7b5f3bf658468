"""Entanglement: a transcription of its inequalities with values of transport by POT, and linear programmes by scipy where couplings tie.
Seed 72.

The coupling of the outputs has the least alignment and, of those, the least entanglement. POT finds it by a trace of the second in its
costs, and two programmes, one after the other, say that it is right to their tolerance. A trace of squared distances settles what is left;
where outputs are equal nothing does, and terms by class are not held.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import ot
from golden import header, tensor, write
from scipy.optimize import linprog
from scipy.sparse import eye, kron, vstack

rng = np.random.default_rng(72)


def half_l1(a, b):
    return 0.5 * np.abs(a[:, None] - b[None]).sum(-1)


def lexicographic(first, second, squares, a, b):
    n, m = first.shape
    marginals = vstack([kron(eye(n), np.ones((1, m))), kron(np.ones((1, n)), eye(m))]).tocsr()
    least = ot.emd2(a, b, first)
    found = linprog(
        second.ravel(),
        A_ub=first.ravel()[None],
        b_ub=[least + 1e-10],
        A_eq=marginals,
        b_eq=np.concatenate([a, b]),
        method="highs",
    )
    assert found.success, found.message
    plan = ot.emd(a, b, first + 1e-6 * second + 1e-9 * squares)
    one, other = (plan * first).sum(), (plan * second).sum()
    assert abs(one - least) < 1e-6 and abs(other - found.fun) < 1e-6, (one - least, other - found.fun)
    return one, other, plan


def domain(rows, classes, shift, prior):
    labels = rng.choice(classes, size=rows, p=prior)
    labels[:classes] = np.arange(classes)
    logits = 1.5 * np.eye(classes)[labels] + rng.normal(size=(rows, classes)) + shift * np.arange(classes)
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), labels


def cells(outputs, labels, others, bins):
    """Masses, means over both domains and shares of labels of the cells of the first domain."""
    place = lambda u: u.argmax(1) * bins + np.minimum((u.max(1) * bins).astype(int), bins - 1)
    both, places = np.concatenate([outputs, others]), np.concatenate([place(outputs), place(others)])
    own = place(outputs)
    held = np.unique(own)
    means = np.stack([both[places == cell].mean(0) for cell in held])
    shares = np.stack([np.eye(outputs.shape[1])[labels[own == cell]].mean(0) for cell in held])
    return np.array([(own == cell).mean() for cell in held]), means, shares


def audit(u, y, v, z, loss, binned):
    classes = u.shape[1]
    if loss == "zero_one":
        u, v = (np.eye(classes)[x.argmax(1)] for x in (u, v))
    risk = {
        "probability": lambda u, y: (1 - u[np.arange(len(y)), y]).mean(),
        "zero_one": lambda u, y: (u.argmax(1) != y).mean(),
        "brier": lambda u, y: ((u - np.eye(classes)[y]) ** 2).sum(1).mean(),
    }[loss]
    if binned:
        (a, from_, h), (b, to, k) = cells(u, y, v, 10), cells(v, z, u, 10)
    else:
        a, from_, h = ot.unif(len(y)), u, np.eye(classes)[y]
        b, to, k = ot.unif(len(z)), v, np.eye(classes)[z]
    apart, unlike = half_l1(from_, to), half_l1(h, k)
    alignment, prediction, plan = lexicographic(apart, unlike, ot.dist(from_, to), a, b)
    p, q = (np.bincount(x, minlength=classes) / len(x) for x in (y, z))
    gamma = np.diag(np.minimum(p, q))
    off = np.outer(np.maximum(p - q, 0), np.maximum(q - p, 0))
    gamma = gamma + (off / np.maximum(p - q, 0).sum() if off.any() else 0)
    label = np.zeros(classes)
    for i, j in zip(*np.nonzero(gamma)):
        cost = half_l1(u[y == i], v[z == j])
        label[j] += gamma[i, j] * ot.emd2(ot.unif(cost.shape[0]), ot.unif(cost.shape[1]), cost)
    joint = half_l1(u, v) + (y[:, None] != z[None])
    terms = [risk(u, y), risk(v, z), alignment, prediction, np.maximum(p - q, 0).sum(), label.sum()]
    terms.append(ot.emd2(ot.unif(len(y)), ot.unif(len(z)), joint))
    expected = {"terms": terms, "label_by_class": label}
    if loss != "zero_one" and not binned:
        expected["alignment_by_class"] = (plan * apart).sum(0) @ k
        expected["prediction_by_class"] = (plan * unlike).sum(0) @ k
    return {name: tensor(np.array(value)) for name, value in expected.items()}


cases = []
for loss in ["probability", "zero_one", "brier"]:
    for binned in [False, True]:
        for n, m, classes, shift in [(25, 18, 3, 0.5), (16, 30, 2, -0.7)]:
            u, y = domain(n, classes, 0.0, np.ones(classes) / classes)
            v, z = domain(m, classes, shift, np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
            config = {"loss": loss, "conditionals": "binned" if binned else "sample"}
            inputs = {"source": tensor(u), "y": y.tolist(), "target": tensor(v), "z": z.tolist()}
            expected = audit(u, y, v, z, loss, binned)
            cases.append({"name": f"{loss}_{binned}_{n}", "config": config, "inputs": inputs, "expected": expected})
head = header(__file__, "a transcription of the inequalities, with transport by pot and scipy", 72, {"f64": 2e-9})
write("shift/entanglement", head, cases)
