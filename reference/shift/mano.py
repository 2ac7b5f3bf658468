"""MaNo: a transcription of the authors' norm, the order's root of the number of entries in the divisor, on probabilities. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import TARGET_HELD, fitted, probabilities, score_case

p = probabilities(fitted(), TARGET_HELD)
cases = [
    score_case(f"order_{q}", {"order": float(q)}, np.linalg.norm(p.ravel(), q) / p.size ** (1 / q)) for q in [4, 2, 1, 3.5]
]
write("shift/mano", header(__file__, "a transcription of the authors' formula", 19, {"f64": 1e-12}), cases)
