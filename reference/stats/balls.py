"""The score of points around a cloud: distances by scipy's trees, as the text under Mathematics says. Seed 22."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import rng, tensor
from scipy.spatial import cKDTree

draw = rng(22)
cases = []
for d, share, parts, pad in [(1, 0.9, 24, 0.2), (2, 0.9, 24, 0.2), (2, 0.5, 9, 0.5), (3, 0.8, 6, 0.1)]:
    cloud, points = draw.normal(size=(40, d)), draw.normal(size=(25, d)) * 1.3
    tree = cKDTree(cloud)
    t = np.quantile(tree.query(cloud, k=2)[0][:, 1], share - 1e-12, method="inverted_cdf")
    low, high = cloud.min(0), cloud.max(0)
    low, high = low - pad * (high - low), high + pad * (high - low)
    axes = [low[j] + (high[j] - low[j]) * (np.arange(parts) + 0.5) / parts for j in range(d)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
    outside = grid[tree.query(grid)[0] >= t]
    far = tree.query(points)[0]
    width = np.linalg.norm(high - low)
    depth = np.minimum(cKDTree(outside).query(points)[0], width) if len(outside) else np.full(len(points), width)
    scores = np.where(far >= t, far, -depth)
    assert (scores < 0).any() and (scores > 0).any()
    settings = {"share": share, "parts": parts, "pad": pad}
    inputs = {"cloud": tensor(cloud), "points": tensor(points)}
    cases.append({"name": f"numbers_{d}_{parts}", "config": {"settings": settings}, "inputs": inputs, "expected": {"scores": scores.tolist()}})
write("stats/balls", header(__file__, "scipy", 22, {"f64": 1e-12}), cases)
