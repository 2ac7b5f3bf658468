"""SPCI on a series of 2000 residuals, twenty steps: the authors' loop around scikit-learn's forests, as `reference/stats/spci.py` has it."""

import numpy as np
import sklearn
from points import THREADS, points  # noqa: F401
from sklearn.ensemble import RandomForestRegressor

WHO = f"scikit-learn {sklearn.__version__}"
PAST, STEPS, LAGS, TREES, DEPTH, ALPHA = 2000, 20, 100, 10, 2, 0.1


def interval(series, step):
    windows = np.lib.stride_tricks.sliding_window_view(series, LAGS)
    rows, targets, query = windows[:-1], series[LAGS:], windows[-1:]
    forest = RandomForestRegressor(TREES, max_depth=DEPTH, random_state=step, n_jobs=THREADS).fit(rows, targets)
    same = forest.apply(rows) == forest.apply(query)
    weights = (same / same.sum(axis=0)).mean(axis=1)
    order = np.argsort(targets)
    mass = np.cumsum(weights[order])
    at = lambda level: targets[order][np.minimum(np.searchsorted(mass, level * (1 - 1e-12)), len(targets) - 1)]
    lower = ALPHA * np.arange(5) / 4
    low, high = at(lower), at(1 - ALPHA + lower)
    best = np.argmin(high - low)
    return low[best], high[best]


def spci(_):
    errors = np.sin(np.arange(PAST + STEPS) / 9) + points(1, PAST + STEPS)[:, 0] - 0.5
    return lambda: [interval(errors[: PAST + step], step) for step in range(STEPS)]
