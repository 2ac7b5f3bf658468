"""Joint PCA by scikit-learn's PCA, on both domains or, as in skada's benchmark, on the source (`compat`). Seed 12.

The sign of each axis is free.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import domains, map_case, shown
from sklearn.decomposition import PCA

source, labels, target = domains(12, features=4)
queries = np.random.default_rng(112).normal(size=(4, 4))
cases = []
for components in [None, 1, 3]:
    for compat in [False, True]:
        pca = PCA(components, svd_solver="full").fit(source if compat else np.concatenate([source, target]))
        settings = {"compat": compat} | ({} if components is None else {"components": components})
        expected = shown(source, target, queries, pca.transform, pca.transform)
        cases.append(map_case(f"{components}_{compat}", settings, source, labels, target, queries, expected))
write("shift/joint_pca", header(__file__, "scikit-learn", 12, {"f64": 1e-10}), cases)
