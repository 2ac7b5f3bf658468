"""Entropic optimal transport by POT's Sinkhorn iteration in the log domain (`sinkhorn_log`, POT 0.9.7.post1), in f64. Seed 0.

POT's plan is exp(u_i + v_j - C_ij/eps), whose entropy term leaves out the masses. `f` and `g` are the potentials of the form with masses,
eps*(u - log a) and eps*(v - log b), shifted by a constant so that the first of `f` is zero, and `value` is <P, C> + eps*KL(P, a b).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, tensor, write
from ot.bregman import sinkhorn_log

generator = np.random.default_rng(0)


def case(name, n, m, epsilon, spread):
    x, y = generator.normal(0, 1, (n, 3)), generator.normal(0.5, spread, (m, 3))
    cost = ((x[:, None] - y[None]) ** 2).sum(2)
    a, b = (generator.uniform(0.2, 1, size) for size in (n, m))
    a, b = a / a.sum(), b / b.sum()
    plan, log = sinkhorn_log(a, b, cost, epsilon, numItermax=200_000, stopThr=1e-13, log=True, warn=False)
    assert abs(plan.sum(1) - a).sum() < 1e-10 and abs(plan.sum(0) - b).sum() < 1e-10
    f, g = epsilon * (log["log_u"] - np.log(a)), epsilon * (log["log_v"] - np.log(b))
    positive = np.where(plan > 0, plan, 1)
    value = (plan * cost).sum() + epsilon * (plan * np.log(positive / np.outer(a, b))).sum()
    return {
        "name": name,
        "config": {"epsilon": epsilon},
        "inputs": {"cost": tensor(cost), "a": tensor(a), "b": tensor(b)},
        "expected": {"f": tensor(f - f[0]), "g": tensor(g + f[0]), "value": value, "plan": tensor(plan)},
    }


cases = [
    case("wide", 7, 5, 1.0, 1.0),
    case("narrow", 6, 9, 0.05, 1.0),
    case("far", 5, 4, 0.1, 6.0),
    case("one", 1, 3, 0.5, 1.0),
]
write("kernels/sinkhorn", header(__file__, "pot", 0, {"f64": 1e-8, "f32": 1e-3}), cases)
