"""Jackknife+ by MAPIE's CrossConformalRegressor with a fold for each row and linear models. Seed 2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from cv_plus import run

case = run(30)
del case["inputs"]["folds"]
write("stats/jackknife_plus", header(__file__, "mapie", 2, {"f64": 1e-12}), [case])
