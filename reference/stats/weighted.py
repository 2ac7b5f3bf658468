"""Conformal prediction under covariate shift: a transcription of the paper by sums over all scores. Seed 9."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, intervals, rng

draw = rng(9)
held, new, truths = draw.normal(size=(30, 1)), draw.normal(size=(5, 1)), draw.normal(size=30)
ratios, fresh = draw.gamma(1.0, size=30), np.array([0.1, 0.5, 1.0, 3.0, 12.0])
scores = np.abs(truths - held[:, 0])
cases = []
for clip in [None, 1.5]:
    w, v = (r if clip is None else np.minimum(r, clip) for r in (ratios, fresh))
    found = {}
    for alpha in ALPHAS:
        pairs = []
        for (m,), own in zip(new, v):
            inside = [s for s in scores if w[scores <= s].sum() / (w.sum() + own) >= 1 - alpha]
            q = min(inside, default=np.inf)
            pairs.append((m - q, m + q))
        found[alpha] = pairs
    inputs = {"answers": held, "truths": truths, "ratios": ratios, "new_ratios": fresh}
    settings = {} if clip is None else {"clip": clip}
    cases.append(intervals(f"clip_{clip}", {}, inputs, new, found, {"weighted": settings}))
source = "a transcription of Tibshirani, Barber, Candès and Ramdas 2019"
write("stats/weighted", header(__file__, source, 9, {"f64": 1e-12}), cases)
