"""RLLS: its objective, lengths under no square, by the simplex of Nelder and Mead from three starts in scipy. Seed 14."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.optimize import minimize
from shift_domains import answers, case, moments

cases = []
for name, penalty, trust in [("light", 0.01, 1.0), ("medium", 0.1, 1.0), ("half", 0.1, 0.5), ("all", 5.0, 1.0)]:
    source, labels, target = answers(14)
    a, b, shares, _ = moments(source, labels, target)
    unsure = np.log(2 * 3 / 0.05)
    pull = penalty * 3 * (2 * unsure / (3 * len(source)) + np.sqrt(2 * unsure / len(source)))
    d = b - a.sum(1)
    norm = lambda x: np.sqrt(x @ x + 1e-26)
    best = None
    for start in [np.full(3, 0.01), np.linalg.solve(a, d).clip(-0.99), np.zeros(3)]:
        found = minimize(
            lambda t: norm(a @ t - d) + pull * norm(t), start, bounds=[(-1, None)] * 3, method="Nelder-Mead",
            options={"xatol": 1e-12, "fatol": 1e-16, "maxiter": 100000, "maxfev": 100000},
        )
        best = found if best is None or found.fun < best.fun else best
    weights = 1 + trust * best.x
    cases.append(case(name, {"penalty": penalty, "trust": trust}, source, labels, target, {"weights": weights}))
write("shift/rlls", header(__file__, "the paper's objective by scipy", 14, {"f64": 1e-5}), cases)
