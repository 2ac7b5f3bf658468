"""KMM: skada's adapter with its default solver (`compat`), and scipy's SLSQP brought to mean one. Seed 4.

Widths are narrow, so that the smallest value belongs to one point.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.optimize import minimize
from shift_domains import case, domains, skada_weights
from skada import KMMReweightAdapter
from sklearn.metrics.pairwise import rbf_kernel


def solved(source, target, gamma, bound, slack):
    n = len(source)
    k = rbf_kernel(source, gamma=gamma)
    kappa = n * rbf_kernel(source, target, gamma=gamma).mean(axis=1)
    slack = (np.sqrt(n) - 1) / np.sqrt(n) if slack is None else slack
    rows = [
        {"type": "ineq", "fun": lambda b: n * (1 + slack) - b.sum(), "jac": lambda b: -np.ones(n)},
        {"type": "ineq", "fun": lambda b: b.sum() - n * (1 - slack), "jac": lambda b: np.ones(n)},
    ]
    found = minimize(
        lambda b: (0.5 * b @ k @ b - kappa @ b) / n,
        np.ones(n),
        jac=lambda b: (k @ b - kappa) / n,
        bounds=[(0, bound)] * n,
        constraints=rows,
        method="SLSQP",
        options={"maxiter": 5000, "ftol": 1e-13},
    )
    assert found.success, found.message
    free = (found.x > 1e-6) & (found.x < bound - 1e-6)
    slopes = (k @ found.x - kappa)[free]
    assert np.ptp(slopes) < 1e-4, slopes
    return found.x / found.x.mean()


data = domains(4)
source, _, target = data
cases = []
for gamma in [0.5, 5.0]:
    weights = skada_weights(KMMReweightAdapter(gamma=gamma), *data)
    cases.append(case(f"gamma_{gamma}_compat", {"gamma": gamma, "compat": True}, *data, {"weights": weights}))
for name, gamma, bound, slack in [("free", 5.0, 1000.0, None), ("bounded", 5.0, 1.2, None), ("tight", 3.0, 1.5, 0.05)]:
    settings = {"gamma": gamma, "bound": bound, "tolerance": 1e-13} | ({} if slack is None else {"slack": slack})
    cases.append(case(name, settings, *data, {"weights": solved(source, target, gamma, bound, slack)}))
write("shift/kmm", header(__file__, "skada", 4, {"f64": 2e-4}), cases)
