"""CORAL: skada's adapter (`compat`), and the formula by singular values of the rows, with scikit-learn's Ledoit-Wolf estimate. Seed 11.

In the last case a column of the source is a copy of another, so that the root has no inverse and the one of least size is taken.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import domains, map_case, shown, skada_shown
from skada import CORALAdapter
from sklearn.covariance import ledoit_wolf

source, labels, target = domains(11, features=3)
source = source @ np.array([[1.0, 0.4, 0.0], [0.0, 0.7, -0.3], [0.0, 0.0, 2.0]]) + np.array([0.5, -1.0, 2.0])
queries = np.random.default_rng(111).normal(size=(4, 3))


def by_rows(x, power):
    """A power of the covariance about zero, by the singular values of the rows."""
    _, s, v = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
    kept = s > 1e-6 * s[0]
    return (v[kept].T * s[kept] ** (2 * power)) @ v[kept]


def shrunk(x):
    scale = x.std(0)
    return ledoit_wolf(x / scale)[0] * np.outer(scale, scale)


def by_matrix(c, power):
    u, s, _ = np.linalg.svd(c)
    return (u * s**power) @ u.T


def coral(x, t, centred, estimate):
    before, after = (np.zeros(3), np.zeros(3)) if centred else (x.mean(0), t.mean(0))
    if estimate == "plain":
        matrix = by_rows(x - before, -0.5) @ by_rows(t - after, 0.5)
    else:
        second = [np.outer(z.mean(0), z.mean(0)) if centred else 0 for z in (x, t)]
        matrix = by_matrix(shrunk(x) + second[0], -0.5) @ by_matrix(shrunk(t) + second[1], 0.5)
    return shown(x, t, queries, lambda z: (z - before) @ matrix + after, lambda z: z)


cases = []
for centred in [False, True]:
    for estimate, reg in [("plain", None), ("ledoit_wolf", "auto")]:
        settings = {"estimate": estimate, "centred": centred}
        name = f"{estimate}{'_centred' if centred else ''}"
        cases.append(map_case(name, settings, source, labels, target, queries, coral(source, target, centred, estimate)))
        found = skada_shown(CORALAdapter(reg=reg, assume_centered=centred), source, labels, target, queries)
        settings = settings | {"compat": True}
        cases.append(map_case(f"{name}_compat", settings, source, labels, target, queries, found))
twice = np.concatenate([source[:, :2], source[:, :1]], axis=1)
cases.append(map_case("no_inverse", {}, twice, labels, target, queries, coral(twice, target, False, "plain")))
write("shift/coral", header(__file__, "skada", 11, {"f64": 1e-9}), cases)
