"""TJM: the turns of the paper by scipy's solver of generalised symmetric problems. Seed 15.

The sign of each component is free. skada's adapter, which ends after one step, is met there up to 1e-4: it divides by a matrix that is
singular but for the 1e-10 it adds, where this divides by the other one. Before the script writes, it sees that no turn raised the
objective.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.linalg import eigh
from shift_domains import domains, map_case, shown, skada_shown
from skada import TransferJointMatchingAdapter
from sklearn.metrics.pairwise import rbf_kernel

data = domains(15, features=3)
source, labels, target = data
queries = np.random.default_rng(115).normal(size=(4, 3))
both = np.concatenate([source, target])
of_source = np.arange(len(both)) < len(source)


def tjm(tradeoff, components, gamma, steps, tolerance):
    k = rbf_kernel(both, gamma=gamma)
    n = len(both)
    h = np.eye(n) - 1 / n
    l = np.where(of_source, 1 / len(source), -1 / len(target))
    m = np.outer(l, l)
    m = m / np.linalg.norm(m)
    spread, apart = k @ h @ k, k @ m @ k
    g, values = np.ones(n), []
    for _ in range(steps):
        _, a = eigh(spread, apart + tradeoff * np.diag(g))
        a = a[:, ::-1][:, :components]
        a = a / np.sqrt(np.diag(a.T @ spread @ a))
        lengths = np.linalg.norm(a, axis=1)
        cost = lengths[of_source].sum() + (lengths[~of_source] ** 2).sum()
        values.append(np.trace(a.T @ apart @ a) + tradeoff * cost)
        if len(values) > 1 and abs(values[-2] - values[-1]) < tolerance * abs(values[-2]):
            break
        g = np.where(of_source, 1 / (2 * lengths + 1e-10), 1)
    assert all(after <= before + 1e-12 for before, after in zip(values, values[1:])), values
    print(len(values), values[0], values[-1])
    return lambda x: rbf_kernel(x, both, gamma=gamma) @ a


cases = []
for tradeoff, components, gamma, steps, tolerance in [
    (0.01, 3, None, 1, 0.0),
    (1.0, 2, None, 1, 0.0),
    (0.01, 3, None, 2, 0.0),
    (0.1, 2, 1.0, 6, 0.0),
    (0.01, 3, None, 50, 0.01),
]:
    show = tjm(tradeoff, components, gamma, steps, tolerance)
    expected = shown(source, target, queries, show, show)
    if steps == 1:
        theirs = skada_shown(TransferJointMatchingAdapter(n_components=components, tradeoff=tradeoff), *data, queries)
        signs = np.sign((theirs["source"] * expected["source"]).sum(0))
        assert all(np.abs(theirs[rows] * signs - expected[rows]).max() < 1e-4 for rows in expected)
    settings = {"tradeoff": tradeoff, "components": components, "steps": steps, "tolerance": tolerance}
    settings |= {} if gamma is None else {"gamma": gamma}
    cases.append(map_case(f"tradeoff_{tradeoff}_steps_{steps}", settings, *data, queries, expected))
write("shift/tjm", header(__file__, "a transcription of the paper", 15, {"f64": 1e-8}), cases)
