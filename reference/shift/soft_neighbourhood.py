"""Soft neighbourhood density: skada's scorer at the default temperature, and a transcription of the paper, where a row is no neighbour of
itself, at others. Seed 19.

skada and the authors' code leave a row in with the negative of its likeness; the tolerance of 1e-7 is for that.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.special import softmax
from shift_scores import TARGET_HELD, fitted, probabilities, score_case, skada_score
from skada.metrics import SoftNeighborhoodDensity

model = fitted()


def snd(temperature):
    p = probabilities(model, TARGET_HELD)
    p = p / np.linalg.norm(p, axis=1, keepdims=True)
    n = len(p)
    others = (p @ p.T)[~np.eye(n, dtype=bool)].reshape(n, n - 1) / temperature
    q = softmax(others, axis=1)
    return -(q * np.log(q)).sum(1).mean()


cases = [score_case("default", {}, skada_score(SoftNeighborhoodDensity(), model))]
assert abs(cases[0]["expected"]["score"] - snd(0.05)) < 1e-7
print(cases[0]["expected"]["score"] - snd(0.05))
cases += [score_case(f"temperature_{t}", {"temperature": t}, snd(t)) for t in [0.5, 2.0]]
write("shift/soft_neighbourhood", header(__file__, "skada", 19, {"f64": 1e-7}), cases)
