"""ReTaSA by a transcription in numpy of what its page states. Seed 21."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, tensor, write

rng = np.random.default_rng(21)
y = rng.normal(size=40)
x = (y + 0.5 * rng.normal(size=40))[:, None]
hidden = rng.normal(size=30) + 0.8
target = (hidden + 0.5 * rng.normal(size=30))[:, None]


def averages(a, b, width):
    k = np.exp(-0.5 * ((a[:, None] - b[None]) / width) ** 2)
    return k / k.sum(1, keepdims=True)


def density(at, rows, width):
    k = np.exp(-0.5 * ((at[:, None] - rows[None]) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return k.mean(1)


cases = []
for name, penalty, width, quantile in [("wide", 0.1, 0.6, 1.0), ("narrow", 0.01, 0.3, 1.0), ("cut", 0.01, 0.3, 0.9)]:
    u, v = (x[:, 0] - x.mean()) / x.std(), (target[:, 0] - x.mean()) / x.std()
    z = (y - y.mean()) / y.std()
    a, b = averages(u, u, width), averages(z, z, width)
    own = density(u, u, width)
    eta = density(u, v, width) / np.maximum(own, np.sort(own)[0]) - 1
    rho = np.linalg.solve(penalty * np.eye(len(y)) + b @ a, b @ eta)
    w = np.maximum(1 + rho, 0)
    values = np.linspace(-1, 2, 5)
    unseen = np.maximum(1 + averages((values - y.mean()) / y.std(), z, width) @ (eta - a @ rho) / penalty, 0)
    w = np.minimum(w, np.sort(w)[int(np.ceil(quantile * len(w))) - 1])
    settings = {"penalty": penalty, "bandwidth_x": width, "bandwidth_y": width, "quantile": quantile}
    inputs = {"source": tensor(x), "y": tensor(y), "target": tensor(target), "values": tensor(values)}
    expected = {"weights": tensor(w / w.mean()), "at": tensor(unseen)}
    cases.append({"name": name, "config": settings, "inputs": inputs, "expected": expected})
write("shift/retasa", header(__file__, "a transcription of the method's page", 21, {"f64": 1e-9}), cases)
