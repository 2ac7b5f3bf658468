"""SPCI: the authors' loop (hamrel-cxu/SPCI-code, SPCI_class.py) around scikit-learn's regression trees, without bootstrap. Seed 19.

Residuals are numbers of single precision, which is what scikit-learn compares. Without bootstrap all trees are alike, so one is fitted. Leaves
give weights to past rows; the quantile is the smallest residual that reaches its level, where the authors' forest interpolates.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import series, stream
from enbpi import narrowest
from sklearn.tree import DecisionTreeRegressor

cases = []
for alpha, lags, depth, bins, decay in [(0.1, 6, 2, 5, 1.0), (0.15, 3, 4, 1, 1.0), (0.2, 12, 1, 9, 1.0), (0.1, 4, 3, 5, 0.96875)]:
    past, truths = series(19, 120), series(20, 30)
    residuals, pairs = list(past), []
    for r in truths:
        e = np.array(residuals[-len(past) :])
        rows = len(e) - lags
        x = np.array([e[i : i + lags] for i in range(rows)])
        y, weights = e[lags:], decay ** np.arange(rows - 1, -1, -1.0)
        tree = DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, y, sample_weight=weights)
        inside = tree.apply(x) == tree.apply(e[-lags:].reshape(1, -1))[0]
        order = np.argsort(y[inside])
        share = np.cumsum((weights[inside] / weights[inside].sum())[order])
        of = lambda level: y[inside][order][min(np.searchsorted(share, level * (1 - 1e-12)), len(order) - 1)]
        pairs.append(narrowest(alpha, bins, of))
        residuals.append(r)
    settings = {"lags": lags, "depth": depth, "bins": bins, "decay": decay, "bootstrap": False, "history": len(past)}
    cases.append(stream(f"lags_{lags}", settings, past, truths, alpha, pairs))
source = "a transcription of hamrel-cxu/SPCI-code (SPCI_class.py) with scikit-learn's trees"
commit = "d598dd32099402bc1b6d636f471a155001c0e54e"
write("stats/spci", header(__file__, source, 19, {"f64": 1e-12}, commit=commit), cases)
