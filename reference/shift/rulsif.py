"""RuLSIF and uLSIF by a transcription of the paper's closed form in numpy, clipped at zero and brought to mean one. Seed 6."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import case, domains

data = domains(6)
source, _, target = data


def kernel(x, c, gamma):
    return np.exp(-gamma * ((x[:, None] - c[None]) ** 2).sum(-1))


cases = []
for alpha, gamma, penalty in [(0.0, 0.5, 0.1), (0.1, 0.5, 0.01), (0.5, 2.0, 0.3)]:
    near, far = kernel(source, target, gamma), kernel(target, target, gamma)
    h = alpha * far.T @ far / len(target) + (1 - alpha) * near.T @ near / len(source)
    theta = np.linalg.solve(h + penalty * np.eye(len(target)), far.mean(0))
    w, seen = np.maximum(near @ theta, 0), np.maximum(far @ theta, 0)
    settings = {"alpha": alpha, "gammas": [gamma], "penalties": [penalty]}
    expected = {"weights": w / w.mean(), "unseen": seen / w.mean()}
    cases.append(case(f"alpha_{alpha}", settings, *data, expected))
write("shift/rulsif", header(__file__, "a transcription of the paper", 6, {"f64": 1e-9}), cases)
