"""Mondrian sets by class on the scores of LAC: a transcription of the book. Seed 11."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import ALPHAS, conformal, probabilities, sets

(held, truths), (new, _) = probabilities(11, 120, 3), probabilities(1011, 12, 3)
found = {}
for alpha in ALPHAS:
    own = [conformal(1 - held[truths == c, c], alpha) for c in range(3)]
    found[alpha] = np.array([[1 - p[c] <= own[c] for c in range(3)] for p in new])
cases = [sets("by_class", {}, held, truths, new, found, {"mondrian": {"by": "class"}})]
source = "a transcription of Vovk, Gammerman and Shafer 2005, section 4.5"
write("stats/mondrian", header(__file__, source, 11, {"f64": 0.0}), cases)
