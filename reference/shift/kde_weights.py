"""KDE weights by skada's adapter over scikit-learn's KernelDensity. Seed 1."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from shift_domains import case, domains, skada_weights
from skada import DensityReweightAdapter
from sklearn.neighbors import KernelDensity

data = domains(1)
cases = []
for bandwidth in [0.4, 2.0, "scott", "silverman"]:
    adapter = DensityReweightAdapter(weight_estimator=KernelDensity(bandwidth=bandwidth, rtol=1e-12))
    cases.append(case(f"bandwidth_{bandwidth}", {"bandwidth": bandwidth}, *data, {"weights": skada_weights(adapter, *data)}))
write("shift/kde_weights", header(__file__, "skada", 1, {"f64": 1e-9}), cases)
