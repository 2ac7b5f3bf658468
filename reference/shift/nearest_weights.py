"""Nearest-neighbour weights: skada's adapter (`compat`), and counts by scikit-learn's search brought to mean one. Seed 3.

skada takes the rows outside the source by `~` on places, which counts from the end; the cases `compat` follow it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import case, domains, skada_weights
from skada import NearestNeighborReweightAdapter
from sklearn.neighbors import NearestNeighbors

cases = []
for name, sizes in [("source_larger", (30, 24)), ("target_larger", (20, 33))]:
    data = domains(3, *sizes)
    for smooth in [False, True]:
        adapter = NearestNeighborReweightAdapter(laplace_smoothing=smooth)
        settings = {"smoothing": float(smooth), "compat": True}
        weights = skada_weights(adapter, *data)
        cases.append(case(f"{name}_{smooth}_compat", settings, *data, {"weights": weights}))
        nearest = NearestNeighbors(n_neighbors=1).fit(data[0]).kneighbors(data[2], return_distance=False)[:, 0]
        counts = np.bincount(nearest, minlength=len(data[0])) + float(smooth)
        cases.append(case(f"{name}_{smooth}", {"smoothing": float(smooth)}, *data, {"weights": counts / counts.mean()}))
write("shift/nearest_weights", header(__file__, "skada", 3, {"f64": 1e-12}), cases)
