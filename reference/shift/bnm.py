"""Batch nuclear norm: numpy's nuclear norm over the number of rows, as in the paper's loss. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import OFFSET, TARGET_HELD, fitted, probabilities, score_case

cases = []
for name, offset in [("plain", OFFSET), ("one_class", OFFSET + np.array([0, 1000.0, 0]))]:
    p = probabilities(fitted(offset=offset), TARGET_HELD)
    cases.append(score_case(name, {}, np.linalg.norm(p, "nuc") / len(p), offset))
write("shift/bnm", header(__file__, "a transcription of the paper", 19, {"f64": 1e-12}), cases)
