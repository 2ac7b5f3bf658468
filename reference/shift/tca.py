"""TCA: skada's adapter on rows with the source first (`compat`), and the equation of the paper by scipy's solver of generalised symmetric
problems. Seed 14. The sign of each component is free.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.linalg import eigh
from shift_domains import domains, map_case, shown, skada_shown
from skada import TransferComponentAnalysisAdapter
from sklearn.metrics.pairwise import rbf_kernel

data = domains(14, features=3)
source, labels, target = data
queries = np.random.default_rng(114).normal(size=(4, 3))
both = np.concatenate([source, target])


def tca(mu, components, gamma, whiten):
    k = rbf_kernel(both, gamma=gamma)
    n = len(both)
    h = np.eye(n) - 1 / n
    l = np.concatenate([np.full(len(source), 1 / len(source)), np.full(len(target), -1 / len(target))])
    spread, price = k @ h @ k, np.eye(n) + mu * k @ np.outer(l, l) @ k
    _, a = eigh(spread, price)
    a = a[:, ::-1][:, :components]
    a = a / np.sqrt(np.diag(a.T @ spread @ a)) if whiten else a / np.linalg.norm(a, axis=0)
    return lambda x: rbf_kernel(x, both, gamma=gamma) @ a


cases = []
for mu, components in [(10.0, 3), (0.1, 2)]:
    found = skada_shown(TransferComponentAnalysisAdapter(n_components=components, mu=mu), *data, queries)
    settings = {"mu": mu, "components": components, "compat": True}
    cases.append(map_case(f"mu_{mu}_compat", settings, *data, queries, found))
for mu, components, gamma, whiten in [(10.0, 4, None, False), (10.0, 3, 0.1, True), (0.0, 3, 2.0, False)]:
    show = tca(mu, components, gamma, whiten)
    settings = {"mu": mu, "components": components, "whiten": whiten} | ({} if gamma is None else {"gamma": gamma})
    name = f"mu_{mu}_gamma_{gamma}"
    cases.append(map_case(name, settings, *data, queries, shown(source, target, queries, show, show)))
write("shift/tca", header(__file__, "skada", 14, {"f64": 1e-8}), cases)
