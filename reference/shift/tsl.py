"""TSL: skada's adapter (`compat`), and the page's objective minimised by torch's L-BFGS from the same two starts. Seed 17.

Objective and densities see the subspace alone, so rows are compared by their products with each other: the shown rows are free up to
a rotation. Some searches are cut short, where only the same sequence of steps ends at the same subspace. At most 25 rows a domain, as in
`mmd_ls.py`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from golden import header, write
from shift_domains import domains, map_case, shown, skada_shown
from skada import TransferSubspaceLearningAdapter
from skada.utils import torch_minimize

data = domains(17, sources=24, targets=20, features=4, shift=0.0)
source, labels, target = data
target[:, 1] += 1.5
target[:, 2] *= -2.0
source[:, 0] += 1.5 * labels
queries = np.random.default_rng(117).normal(size=(4, 4))


def covariance(z):
    z = z - z.mean(0)
    return z.T @ z / len(z)


def window(a, b, sigma):
    apart = a[:, None] - b[None]
    square = (apart @ torch.linalg.inv(sigma) * apart).sum(-1)
    return torch.exp(-square / 2).mean() / torch.sqrt(torch.linalg.det(2 * torch.pi * sigma))


def objective(w, kind, mu, shrinkage, bandwidth):
    x, t, of = torch.tensor(source), torch.tensor(target), torch.tensor(labels)
    eye = torch.eye(w.shape[1], dtype=torch.float64)
    c = covariance(x)
    if kind == "pca":
        c = (1 - shrinkage) * c + shrinkage * torch.trace(c) * torch.eye(4)
        value = -torch.trace(w.T @ c @ w)
    else:
        within = sum(covariance(x[of == k]) * (of == k).double().mean() for k in (0, 1))
        means = torch.stack([x[of == k].mean(0) for k in (0, 1)])[of]
        value = torch.trace(w.T @ within @ w) / torch.trace(w.T @ covariance(means) @ w)
    a, b = x @ w, t @ w

    def spread(z):
        c = covariance(z)
        return bandwidth**2 * ((1 - shrinkage) * c + shrinkage * torch.trace(c) * eye)

    s, u = spread(a), spread(b)
    return value + mu * (window(a, a, 2 * s) + window(b, b, 2 * u) - 2 * window(a, b, s + u))


def tsl(components, kind, mu, shrinkage, bandwidth, steps, tolerance):
    both = np.concatenate([source, target])
    axes = np.linalg.svd(both - both.mean(0))[2].T
    best = None
    for start in [axes[:, :components], axes[:, 4 - components :]]:
        value = lambda v: objective(torch.linalg.qr(v)[0], kind, mu, shrinkage, bandwidth)
        found = torch_minimize(value, torch.tensor(start.copy()), tol=tolerance, max_iter=steps)
        best = found if best is None or found[1] < best[1] else best
    w = np.linalg.qr(best[0])[0]
    show = lambda x: x @ w
    return shown(source, target, queries, show, show) | {"objective": [best[1]]}


cases = []
for components, kind, mu, steps in [(1, "flda", 1.0, 300), (2, "flda", 0.1, 3), (2, "pca", 10.0, 300)]:
    adapter = TransferSubspaceLearningAdapter(
        n_components=components, base_method=kind, mu=mu, reg=1e-4, max_iter=steps, tol=1e-4
    )
    found = {k: v.copy() for k, v in skada_shown(adapter, *data, queries).items()}
    settings = {"components": components, "objective": {"flda": "discriminants"}.get(kind, kind), "mu": mu}
    settings |= {"steps": steps, "compat": True}
    cases.append(map_case(f"{kind}_{components}_compat", settings, *data, queries, found))
for components, kind, mu, shrinkage, bandwidth, steps, tolerance in [
    (1, "discriminants", 1.0, 1e-4, 1.0, 300, 1e-6),
    (2, "discriminants", 10.0, 0.1, 0.5, 4, 1e-4),
    (2, "pca", 30.0, 1e-4, 1.0, 300, 1e-6),
    (3, "pca", 5.0, 0.0, 2.0, 300, 1e-6),
]:
    settings = {"components": components, "objective": kind, "mu": mu, "shrinkage": shrinkage}
    settings |= {"bandwidth": bandwidth, "steps": steps, "tolerance": tolerance}
    expected = tsl(components, kind, mu, shrinkage, bandwidth, steps, tolerance)
    cases.append(map_case(f"{kind}_{components}", settings, *data, queries, expected))
write("shift/tsl", header(__file__, "skada", 17, {"f64": 1e-5}), cases)
