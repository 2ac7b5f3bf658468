"""Directional quantiles by scikit-learn's QuantileRegressor, a linear program for each direction. Seed 21.

Expected is the loss of each direction, which is least there; the coefficients may not be unique.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import rng, tensor
from sklearn.linear_model import QuantileRegressor

draw = rng(21)
cases = []
for numbers, directions, level in [(1, 2, 0.1), (2, 8, 0.05), (2, 5, 0.3)]:
    x = draw.normal(size=(50, 2))
    y = x @ draw.normal(size=(2, numbers)) + draw.normal(size=(50, numbers)) * (1 + np.abs(x[:, :1]))
    angles = 2 * np.pi * np.arange(directions) / directions
    u = np.array([[1.0], [-1.0]]) if numbers == 1 else np.c_[np.cos(angles), np.sin(angles)]
    losses = []
    for z in (y @ u.T).T:
        r = z - QuantileRegressor(quantile=level, alpha=0, solver="highs").fit(x, z).predict(x)
        losses.append(float(np.where(r > 0, level * r, (level - 1) * r).sum()))
    settings = {"level": level, "directions": directions}
    name = f"numbers_{numbers}_{directions}"
    cases.append({"name": name, "config": {"settings": settings}, "inputs": {"x": tensor(x), "y": tensor(y)}, "expected": {"losses": losses}})
write("stats/dqr", header(__file__, "scikit-learn", 21, {"f64": 1e-4}), cases)
