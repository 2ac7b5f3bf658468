"""RAPS without draws: a transcription of the paper, classes in falling order in a loop. Seed 8.

MAPIE 1.6 tunes the penalty on rows that it holds back, and cannot be given one; like its APS it draws at calibration always.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, conformal, probabilities, sets

(held, truths), (new, _) = probabilities(8, 60, 6), probabilities(1008, 12, 6)


def scores(p, penalty, free):
    out, before = np.zeros(len(p)), 0.0
    for place, c in enumerate(np.argsort(-p), start=1):
        before += p[c]
        out[c] = before + penalty * max(0, place - free)
    return out


cases = []
for penalty, free in [(0.01, 5), (0.2, 1), (0.0, 2)]:
    own = [scores(p, penalty, free)[t] for p, t in zip(held, truths)]
    found = {a: np.array([scores(p, penalty, free) <= conformal(own, a) + 1e-14 for p in new]) for a in ALPHAS}
    settings = {"penalty": penalty, "free": free, "randomised": False}
    cases.append(sets(f"{penalty}_{free}", settings, held, truths, new, found))
source = "a transcription of Angelopoulos, Bates, Malik and Jordan 2021"
write("stats/raps", header(__file__, source, 8, {"f64": 0.0}), cases)
