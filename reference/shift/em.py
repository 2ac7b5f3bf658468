"""The likelihood of the target's shares by scipy's SLSQP, not by EM, and calibration by scipy's BFGS. Seed 14."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.optimize import minimize
from shift_domains import answers, case
from scipy.special import log_softmax, softmax

cases = []
for name, calibrate, wrong in [("plain", False, 0.0), ("calibrated", True, 1.0)]:
    source, labels, target = answers(14, rows=150, targets=90, miscalibrated=wrong)
    seen = target
    if calibrate:
        logs = np.log(source)
        loss = lambda v: -log_softmax(v[0] * logs + np.r_[0, v[1:]], axis=1)[np.arange(len(labels)), labels].mean()
        v = minimize(loss, np.array([1.0, 0, 0]), method="BFGS", options={"gtol": 1e-10}).x
        seen = softmax(v[0] * np.log(target) + np.r_[0, v[1:]], axis=1)
    shares = np.bincount(labels, minlength=3) / len(labels)
    ratio = seen / shares
    found = minimize(
        lambda q: -np.log(ratio @ q).mean(),
        shares,
        jac=lambda q: -(ratio / (ratio @ q)[:, None]).mean(0),
        bounds=[(0, 1)] * 3,
        constraints=[{"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones(3)}],
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    q = found.x
    assert q.min() > 1e-3
    g = ratio / (ratio @ q)[:, None]
    z = np.linalg.svd(np.ones((1, 3)))[2][1:].T
    covariance = z @ np.linalg.inv(z.T @ (g.T @ g) @ z) @ z.T / np.outer(shares, shares)
    expected = {"weights": q / shares, "prior": q, "covariance": covariance}
    cases.append(case(name, {"calibrate": calibrate}, source, labels, target, expected))
write("shift/em", header(__file__, "scipy", 14, {"f64": 1e-5}), cases)
