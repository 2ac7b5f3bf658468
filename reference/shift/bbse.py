"""BBSE by numpy's solver; where a weight is negative, by scipy's SLSQP under the constraints. Seeds 11 and 12."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.optimize import minimize
from shift_domains import answers, case, moments

cases = []
for name, moment, seed, targets in [("soft", "soft", 11, 60), ("hard", "hard", 11, 60), ("few", "hard", 12, 5)]:
    source, labels, target = answers(seed, targets=targets)
    of = (lambda p: np.eye(3)[p.argmax(1)]) if moment == "hard" else (lambda p: p)
    a, b, shares, covariance = moments(of(source), labels, of(target))
    weights = np.linalg.solve(a, b)
    if name == "few":
        assert weights.min() < 0
        found = minimize(
            lambda w: ((a @ w - b) ** 2).sum(),
            np.ones(3),
            jac=lambda w: 2 * a.T @ (a @ w - b),
            bounds=[(0, None)] * 3,
            constraints=[{"type": "eq", "fun": lambda w: shares @ w - 1, "jac": lambda w: shares}],
            options={"ftol": 1e-16, "maxiter": 1000},
        )
        weights = found.x
    expected = {"weights": weights, "prior": weights * shares, "covariance": covariance(weights)}
    cases.append(case(name, {"moment": moment}, source, labels, target, expected))
write("shift/bbse", header(__file__, "numpy", 11, {"f64": 1e-7}), cases)
