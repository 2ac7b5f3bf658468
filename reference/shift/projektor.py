"""Projektor: a transcription of its steps, with transport by POT and least squares by scikit-learn. Seed 151.

The public code (projektor/projector.py) has the second stage and the calibrated gradient in the same form; its regression of two sources has
no squares outside the distance's factor. The steps of the search are transcribed with distances renewed as the header of a case says.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import ot
from golden import header, tensor, write
from sklearn.linear_model import LinearRegression

rng = np.random.default_rng(151)


def columns(ratio, distance):
    """What two sources leave of the polynomial is one in the first share; of more the last share alone follows from the others."""
    q = np.asarray(ratio)
    own = [q[0], q[0] ** 2] if len(q) == 2 else [*q[:-1], *q**2]
    return np.array([distance, *own, *(distance * np.array(own))])


def fitted(runs, ridge):
    x = np.stack([columns(q, d) for q, d, _ in runs])
    y = np.array([s for _, _, s in runs])
    if ridge == 0:
        model = LinearRegression().fit(x, y)
        return model.coef_, model.intercept_
    full = np.column_stack([x, np.ones(len(y))])
    price = ridge * np.diag([*(x**2).mean(0), 0])
    found = np.linalg.solve(full.T @ full / len(y) + price, full.T @ y / len(y))
    return found[:-1], found[-1]


def costs(sources, valid, weight):
    parts = []
    for x, y in sources:
        apart = ot.dist(x, valid[0], metric="euclidean")
        label = np.zeros((2, 2))
        for i in range(2):
            for j in range(2):
                part = apart[y == i][:, valid[1] == j]
                label[i, j] = ot.emd2(ot.unif(part.shape[0]), ot.unif(part.shape[1]), part)
        parts.append(apart + weight * label[y][:, valid[1]])
    return np.concatenate(parts), [len(x) for x, _ in sources]


def distance(cost, rows, q):
    masses = np.concatenate([np.full(n, share / n) for n, share in zip(rows, q)])
    plan, log = ot.emd(masses / masses.sum(), ot.unif(cost.shape[1]), cost, log=True)
    means = np.array([part.mean() for part in np.split(log["u"], np.cumsum(rows)[:-1])])
    slopes = means - means @ q
    return (plan * cost).sum(), slopes, slopes / (1 - q)


def project(sizes, scores, size):
    (n0, n1), (s0, s1) = sizes, scores
    return (np.log(size / n0) * s1 - np.log(size / n1) * s0) / np.log(n1 / n0)


def slopes(model, q, value, own):
    """By differences of the fitted polynomial, and the chain rule through the distance."""
    coefficients, _ = model
    free = lambda q, d: columns(q, d) @ coefficients
    h, k = 1e-6, len(q)
    along = (free(q, value + h) - free(q, value - h)) / (2 * h)
    direct = [(free(q + h * e, value) - free(q - h * e, value)) / (2 * h) for e in np.eye(k)]
    return along * own + np.array(direct)


def simplex(v):
    u = np.sort(v)[::-1]
    total = np.cumsum(u) - 1
    rank = np.nonzero(u * np.arange(1, len(v) + 1) > total)[0][-1]
    return np.maximum(v - total[rank] / (rank + 1), 0)


def rows(count, where, noisy=0.0):
    y = rng.integers(2, size=count)
    x = rng.normal(size=(count, 2)) + where + 2.0 * y[:, None]
    return x, np.where(rng.uniform(size=count) < noisy, 1 - y, y)


cases = []
for k, ridge in [(2, 0.0), (2, 1e-3), (3, 0.0), (3, 1e-2)]:
    runs = []
    for _ in range(30):
        q = rng.dirichlet(np.ones(k))
        runs.append((q, rng.uniform(0.5, 2), rng.uniform(0.4, 0.9)))
    model = fitted(runs, ridge)
    new = [(rng.dirichlet(np.ones(k)), rng.uniform(0.5, 2)) for _ in range(6)]
    left = []
    for out in range(len(runs)):
        other = fitted(runs[:out] + runs[out + 1 :], ridge)
        left.append(columns(*runs[out][:2]) @ other[0] + other[1] - runs[out][2])
    expected = {
        "scores": tensor(np.array([columns(q, d) @ model[0] + model[1] for q, d in new])),
        "left_out": tensor(np.array([np.sqrt(np.mean(np.square(left)))])),
    }
    inputs = {"runs": tensor(np.array([[*q, d, s] for q, d, s in runs])), "new": tensor(np.array([[*q, d] for q, d in new]))}
    cases.append({"name": f"fit_{k}_{ridge}", "config": {"ridge": ridge}, "inputs": inputs, "expected": expected})

for k, weight in [(2, 0.0), (3, 1.0)]:
    scales, inputs, expected = [], {"sizes": [20.0, 40.0], "size": 400.0}, {}
    valid = rows(23, 0.3)
    inputs |= {"valid": tensor(valid[0]), "valid_y": valid[1].tolist()}
    q = np.array([0.3718, 0.6282]) if k == 2 else np.array([0.1913, 0.5031, 0.3056])
    for at, size in enumerate([8, 13]):
        sources = [rows(size + i, i * 1.5, 0.1 * i) for i in range(k)]
        inputs |= {f"source_{at}_{i}": tensor(s[0]) for i, s in enumerate(sources)}
        inputs |= {f"labels_{at}_{i}": s[1].tolist() for i, s in enumerate(sources)}
        cost, counts = costs(sources, valid, weight)
        value, own, calibrated = distance(cost, counts, q)
        expected |= {f"value_{at}": tensor(np.array([value])), f"slopes_{at}": tensor(own), f"calibrated_{at}": tensor(calibrated)}
        runs = []
        for _ in range(25):
            p = rng.dirichlet(np.ones(k))
            d = distance(cost, counts, p)[0]
            runs.append((p, d, 0.9 - 0.1 * d - 0.05 * p[0] + 0.02 * at + 0.005 * rng.normal()))
        inputs[f"runs_{at}"] = tensor(np.array([[*p, d, s] for p, d, s in runs]))
        scales.append((cost, counts, fitted(runs, 0.0)))
    ratio, lr, best = np.ones(k) / k, 0.05, (-np.inf, None)
    for step in range(31):
        found = [distance(cost, counts, ratio) for cost, counts, _ in scales]
        scores = [columns(ratio, f[0]) @ s[2][0] + s[2][1] for f, s in zip(found, scales)]
        score = project(inputs["sizes"], scores, inputs["size"])
        if score > best[0]:
            best = (score, ratio)
        up = project(inputs["sizes"], [slopes(s[2], ratio, f[0], f[1]) for f, s in zip(found, scales)], inputs["size"])
        ratio = simplex(ratio + lr * up)
        lr *= 0.95
    expected |= {"score": tensor(np.array([best[0]])), "ratio": tensor(best[1])}
    inputs["ratio"] = q.tolist()
    config = {"label_weight": weight, "ridge": 0.0, "lr": 0.05, "decay": 0.95, "steps": 30}
    cases.append({"name": f"best_{k}", "config": config, "inputs": inputs, "expected": expected})
head = header(__file__, "a transcription of the steps, with transport by pot and least squares by scikit-learn", 151, {"f64": 1e-7})
write("shift/projektor", head, cases)
