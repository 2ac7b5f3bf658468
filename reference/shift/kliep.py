"""KLIEP: skada's adapter (`compat`), and the likelihood maximised by scipy's SLSQP and steps of EM, with mean one. Seed 5.

skada draws centres with replacement; here the draw is replaced by all rows of the target in their order.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.optimize import minimize
from shift_domains import case, domains, skada_weights
from skada import KLIEPReweightAdapter
from sklearn.metrics.pairwise import rbf_kernel


class InOrder(np.random.RandomState):
    def choice(self, rows, count):
        return rows[:count]


def solved(source, target, gamma):
    a, b = rbf_kernel(target, target, gamma=gamma), rbf_kernel(source, target, gamma=gamma)
    mean = b.mean(axis=0)
    m = a / mean
    found = minimize(
        lambda s: -np.log(m @ s).mean(),
        np.full(len(target), 1 / len(target)),
        jac=lambda s: -(m.T @ (1 / (m @ s))) / len(target),
        bounds=[(0, None)] * len(target),
        constraints=[{"type": "eq", "fun": lambda s: s.sum() - 1, "jac": lambda s: np.ones(len(target))}],
        method="SLSQP",
        options={"maxiter": 5000, "ftol": 1e-13},
    )
    assert found.success, found.message
    shares = found.x
    for _ in range(200_000):  # the mixture's own steps, to the last digits
        shares = shares * (m.T @ (1 / (m @ shares)) / len(target))
    assert (m.T @ (1 / (m @ shares)) / len(target)).max() < 1 + 1e-9
    w = b @ (shares / mean)
    return w / w.mean()


data = domains(5)
cases = []
for gamma in [1.0, 4.0]:
    adapter = KLIEPReweightAdapter(gamma=gamma, random_state=InOrder(0))
    settings = {"gammas": [gamma]}
    weights = skada_weights(adapter, *data)
    cases.append(case(f"gamma_{gamma}_compat", settings | {"compat": True}, *data, {"weights": weights}))
    cases.append(case(f"gamma_{gamma}", settings, *data, {"weights": solved(data[0], data[2], gamma)}))
adapter = KLIEPReweightAdapter(gamma="scale", random_state=InOrder(0))
settings = {"gammas": ["scale"], "compat": True}
cases.append(case("scale_compat", settings, *data, {"weights": skada_weights(adapter, *data)}))
write("shift/kliep", header(__file__, "skada", 5, {"f64": 1e-4}), cases)
