"""Gaussian weights by skada's adapter, at its own scale (`compat`) and brought to mean one. Seed 2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from shift_domains import case, domains, skada_weights
from skada import GaussianReweightAdapter

data = domains(2, features=3)
cases = []
for name, shrinkage, reg in [("ledoit_wolf", "ledoit_wolf", "auto"), ("tenth", 0.1, 0.1), ("none", 0.0, None)]:
    weights = skada_weights(GaussianReweightAdapter(reg=reg), *data)
    cases.append(case(f"{name}_compat", {"shrinkage": shrinkage, "compat": True}, *data, {"weights": weights}))
    cases.append(case(name, {"shrinkage": shrinkage}, *data, {"weights": weights / weights.mean()}))
write("shift/gaussian_weights", header(__file__, "skada", 2, {"f64": 1e-9}), cases)
