"""Optimal transport by POT 0.9.7.post1: exact, entropic, unbalanced, partial, barycentres, the map between normal distributions. Seed 0.

Entropic runs go on until their marginals agree to 1e-13 or better, so that the answer does not depend on the path. POT's entropic problem
has an entropy of the coupling alone; with exact marginals the coupling is the same as under a divergence from the product of the masses.
The unbalanced problem has the latter (`reg_type="kl"`) and reports the value without constants, so that only the coupling is held.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import ot
from golden import header, tensor, write

generator = np.random.default_rng(0)


def points(n, m, width=2, unequal=True, far=0.5):
    x, y = generator.normal(0, 1, (n, width)), generator.normal(far, 1.3, (m, width))
    a, b = (generator.uniform(0.2, 1, size) if unequal else np.ones(size) for size in (n, m))
    return x, y, a / a.sum(), b / b.sum()


def case(kind, inputs, expected, **config):
    return {
        "name": f"{kind}_{len(cases)}",
        "config": {"kind": kind, **config},
        "inputs": {name: tensor(value) for name, value in inputs.items()},
        "expected": {name: tensor(value) for name, value in expected.items()},
    }


cases = []
for n, m, unequal in [(9, 7, True), (8, 8, False), (6, 12, False), (1, 4, True)]:
    x, y, a, b = points(n, m, unequal=unequal)
    cost = ot.dist(x, y)
    plan = ot.emd(a, b, cost)
    cases.append(case("exact", {"cost": cost, "a": a, "b": b}, {"plan": plan, "value": np.array([(plan * cost).sum()])}))
x, y, a, b = points(6, 5)
a[2] = b[0] = 0
a, b = a / a.sum(), b / b.sum()
cost = ot.dist(x, y)
plan = ot.emd(a, b, cost)
cases.append(case("exact", {"cost": cost, "a": a, "b": b}, {"plan": plan, "value": np.array([(plan * cost).sum()])}))

for metric in ["sqeuclidean", "cosine", "cityblock"]:
    x, y, _, _ = points(5, 4, width=3)
    cost = ot.dist(x, y, metric=metric)
    expected = {"cost": cost, "median": np.array([np.median(cost)])}
    cases.append(case("cost", {"x": x, "y": y}, expected, metric=metric))

for reg, far in [(1.0, 0.5), (0.1, 0.5), (0.05, 4.0)]:
    x, y, a, b = points(8, 6, far=far)
    cost = ot.dist(x, y)
    plan = ot.bregman.sinkhorn_log(a, b, cost, reg, numItermax=400_000, stopThr=1e-15, warn=False)
    assert abs(plan.sum(1) - a).sum() + abs(plan.sum(0) - b).sum() < 1e-12
    cases.append(case("sinkhorn", {"cost": cost, "a": a, "b": b}, {"plan": plan}, reg=reg))

for reg, marginal in [(0.5, 1.0), (0.1, 5.0)]:
    x, y, a, b = points(6, 7)
    a = 1.5 * a
    cost = ot.dist(x, y)
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, reg, marginal, method="sinkhorn", reg_type="kl", numItermax=200_000, stopThr=1e-15
    )
    cases.append(case("unbalanced", {"cost": cost, "a": a, "b": b}, {"plan": plan}, reg=reg, marginal=marginal))

for mass in [0.3, 0.8]:
    x, y, a, b = points(7, 6)
    cost = ot.dist(x, y)
    plan = ot.partial.partial_wasserstein(a, b, cost, m=mass)
    cases.append(case("partial", {"cost": cost, "a": a, "b": b}, {"plan": plan}, mass=mass))

grid = np.linspace(0, 1, 12)[:, None]
cost = ot.dist(grid, grid)
for reg, weights in [(0.02, [0.5, 0.5]), (0.05, [0.2, 0.8])]:
    histograms = generator.uniform(0.1, 1, (12, 2))
    histograms /= histograms.sum(0)
    weights = np.array(weights)
    mean = ot.bregman.barycenter(
        histograms, cost, reg, weights=weights, method="sinkhorn_log", numItermax=100_000, stopThr=1e-15, warn=False
    )
    inputs = {"cost": cost, "histograms": histograms.T, "weights": weights}
    cases.append(case("barycentre", inputs, {"masses": mean}, reg=reg))

x, y, a, b = points(6, 5)
start = generator.normal(0, 1, (4, 2))
masses = np.ones(4) / 4
weights = np.array([0.3, 0.7])
found = ot.lp.free_support_barycenter([x, y], [a, b], start, b=masses, weights=weights, numItermax=50, stopThr=1e-15)
inputs = {"x": x, "a": a, "y": y, "b": b, "start": start, "masses": masses, "weights": weights}
cases.append(case("free_barycentre", inputs, {"points": found}))

x, y, _, _ = points(20, 25, width=3)
source, target = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
zero = np.zeros((1, 3))
matrix, _ = ot.gaussian.bures_wasserstein_mapping(zero, zero, source, target)
cases.append(case("gaussian_map", {"source": source, "target": target}, {"map": matrix}))

write("stats/transport", header(__file__, "pot", 0, {"f64": 1e-8}), cases)
