"""Quantile tracking: the transcription of `pid.py` without integrator, as the authors' `quantile`. Seed 14."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from pid import case

cases = [
    case("relative", 0.1, 0.1, 1.0, 0, 30, True, tracker=True),
    case("fixed", 0.05, 0.4, 1.0, 0, 30, False, tracker=True),
]
source = "a transcription of aangelopoulos/conformal-time-series (core/methods.py)"
commit = "a1e9765a7538f3c1f55e7891319ca38ddde36fb3"
write("stats/quantile_tracker", header(__file__, source, 14, {"f64": 1e-11}, commit=commit), cases)
