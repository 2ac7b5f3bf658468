"""Prediction entropy: skada's scorer times the number of classes, over which it takes a mean. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import OFFSET, fitted, score_case, skada_score
from skada.metrics import PredictionEntropyScorer

# In the second case one class has a probability of zero in double precision.
cases = []
for name, offset in [("plain", OFFSET), ("never_one_class", OFFSET - np.array([0, 0, 1000.0]))]:
    cases.append(score_case(name, {}, 3 * skada_score(PredictionEntropyScorer(), fitted(offset=offset)), offset))
write("shift/prediction_entropy", header(__file__, "skada", 19, {"f64": 1e-10}), cases)
