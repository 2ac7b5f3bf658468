"""ELSA by a transcription in numpy of the form that its page states. Seed 14."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import answers, case, moments

cases = []
for name, refinements, wrong in [("once", 0, 0.0), ("refined", 1, 0.0), ("miscalibrated", 2, 1.0)]:
    source, labels, target = answers(14, rows=90, targets=70, miscalibrated=wrong)
    a, b, shares, _ = moments(source, labels, target)
    weights = np.linalg.solve(a, b)
    assert weights.min() > 0
    for _ in range(refinements + 1):
        w = np.maximum(weights, 1e-3)
        divide = lambda f: f / (f @ (w**2 + len(source) / len(target) * w))[:, None]
        a, b, shares, covariance = moments(divide(source), labels, divide(target))
        weights = np.linalg.solve(a, b)
    assert weights.min() > 0
    expected = {"weights": weights, "prior": weights * shares, "covariance": covariance(weights)}
    cases.append(case(name, {"refinements": refinements}, source, labels, target, expected))
write("shift/elsa", header(__file__, "a transcription of the method's page", 14, {"f64": 1e-9}), cases)
