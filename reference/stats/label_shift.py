"""Conformal sets under label shift: a transcription of the paper by sums over all scores, on the scores of LAC. Seed 10."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, probabilities, sets

(held, truths), (new, _) = probabilities(10, 60, 4), probabilities(1010, 12, 4)
cases = []
for weights in [[1.0] * 4, [0.2, 3.0, 1.0, 0.5]]:
    own, w = 1 - held[np.arange(60), truths], np.array(weights)

    def threshold(alpha, c):
        inside = [s for s in own if w[truths[own <= s]].sum() / (w[truths].sum() + w[c]) >= (1 - alpha) * (1 - 1e-12)]
        return min(inside, default=np.inf)

    found = {a: np.array([[1 - p[c] <= threshold(a, c) for c in range(4)] for p in new]) for a in ALPHAS}
    cases.append(sets(f"weights_{weights[1]}", {}, held, truths, new, found, {"label_shift": {"weights": weights}}))
source = "a transcription of Podkopaev and Ramdas 2021"
write("stats/label_shift", header(__file__, source, 10, {"f64": 0.0}), cases)
