"""Information maximisation: the entropy of the mean less the mean of the entropies, by scipy. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from scipy.stats import entropy
from shift_scores import OFFSET, TARGET_HELD, fitted, probabilities, score_case

cases = []
for name, offset in [("plain", OFFSET), ("never_one_class", OFFSET - np.array([0, 0, 1000.0]))]:
    p = probabilities(fitted(offset=offset), TARGET_HELD)
    cases.append(score_case(name, {}, entropy(p.mean(0)) - entropy(p, axis=1).mean(), offset))
write("shift/info_max", header(__file__, "a transcription of the paper", 19, {"f64": 1e-12}), cases)
