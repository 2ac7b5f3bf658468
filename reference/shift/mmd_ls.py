"""MMD-LS: skada's adapter (`compat`), and the page's objective minimised by torch's L-BFGS from the same start. Seed 16.

Both searches are cut short in some cases, where only the same sequence of steps ends at the same map. In the last case the search goes to
its end, and before the script writes, scipy's BFGS confirms that minimum. There are at most 25 rows a domain: above that
`torch.cdist` rounds distances so that a row is not at zero distance from itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from golden import header, write
from scipy.optimize import minimize
from shift_domains import domains, map_case, shown, skada_shown
from skada import MMDLSConSMappingAdapter
from skada.utils import torch_minimize

data = domains(16, sources=22, targets=18)
source, labels, target = data
queries = np.random.default_rng(116).normal(size=(4, 2))


def squares(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def objective(scales, moves, gamma, label_ridge, map_ridge):
    x, t, of = torch.tensor(source), torch.tensor(target), torch.tensor(labels)
    one = (of[:, None] == of[None]).double()
    v = (one @ torch.linalg.inv(one + label_ridge * torch.eye(len(x)))).T @ torch.ones(len(x), dtype=torch.float64)
    w, b = scales[of], moves[of]
    mapped = w * x + b
    value = v @ torch.exp(-gamma * squares(mapped, mapped)) @ v / len(x) ** 2
    value = value - 2 * (v @ torch.exp(-gamma * squares(mapped, t))).sum() / (len(x) * len(t))
    return value + map_ridge / len(x) * (((w - 1) ** 2).sum() + (b**2).sum())


def mmd_ls(gamma, label_ridge, map_ridge, steps, tolerance, confirm):
    start = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    found = lambda g, h: objective(g, h, gamma, label_ridge, map_ridge)
    (scales, moves), value = torch_minimize(found, start, tol=tolerance, max_iter=steps)
    if confirm:

        def flat(z):
            z = torch.tensor(z.reshape(2, 2, 2), requires_grad=True)
            at = found(z[0], z[1])
            return at.item(), torch.autograd.grad(at, z)[0].numpy().ravel()

        again = minimize(flat, np.stack([scales, moves]).ravel(), jac=True, method="BFGS", options={"gtol": 1e-10})
        assert abs(again.fun - value) < 1e-9, (again.fun, value)
    nearest = lambda x: squares(x, source).argmin(1)
    of_source = lambda x: scales[labels[nearest(x)]] * x + moves[labels[nearest(x)]]
    return shown(source, target, queries, of_source, lambda x: x) | {"objective": [value]}


cases = []
for gamma, steps in [(0.5, 3), (0.1, 20), (2.0, 20)]:
    adapter = MMDLSConSMappingAdapter(gamma=gamma, reg_k=1e-2, reg_m=1e-3, tol=1e-5, max_iter=steps)
    found = skada_shown(adapter, *data, queries)
    settings = {"gamma": gamma, "label_ridge": 1e-2, "map_ridge": 1e-3, "steps": steps, "compat": True}
    cases.append(map_case(f"gamma_{gamma}_compat", settings, *data, queries, found))
for name, gamma, ridges, steps, tolerance in [
    ("short", 0.5, (1e-8, 1e-8), 4, 1e-5),
    ("ridges", 0.5, (2.0, 0.1), 20, 1e-5),
    ("to_the_end", 0.3, (1e-8, 1e-3), 300, 1e-9),
]:
    expected = mmd_ls(gamma, *ridges, steps, tolerance, name == "to_the_end")
    settings = {"gamma": gamma, "label_ridge": ridges[0], "map_ridge": ridges[1], "steps": steps, "tolerance": tolerance}
    cases.append(map_case(name, settings, *data, queries, expected))
write("shift/mmd_ls", header(__file__, "skada", 16, {"f64": 1e-6}), cases)
