"""SketchRidgeless: risks and sizes by the authors' functions (statsle/SRLR_python), fits on all rows by NumPy's least squares. Seed 159.

Where the best answer is the mean of the targets the authors answer with a fortieth of the rows; the case says so by its number, 2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from authors import take
from golden import header, tensor, write
from scipy.optimize import fsolve

COMMIT = "0814fc97ca3a0e2173f9acc63ba40fdd12f272f5"
NAMES = ["asy_risk_sketch", "fn", "gn", "unique_c0_op", "unique_c0_up", "asy_risk_sketch_correlated"]
risks = take("statsle/SRLR_python", COMMIT, "src/SRLR/asymptotics.py", NAMES, np=np, fsolve=fsolve)
sizes = take("statsle/SRLR_python", COMMIT, "src/SRLR/optimal_m.py", ["optimal_m"], np=np)
rng = np.random.default_rng(159)
cases = []

for n, p, m, alpha, sigma, orthogonal in [
    (400, 100, 150, 2.0, 1.0, True),
    (400, 100, 150, 2.0, 1.0, False),
    (400, 200, 120, 1.5, 0.5, True),
    (400, 200, 390, 3.0, 1.0, False),
    (300, 600, 200, 1.0, 1.0, True),
    (300, 600, 300, 1.0, 2.0, False),
]:
    values = np.sort(rng.gamma(4.0, 0.25, p))
    with np.errstate(divide="ignore"):
        plain = risks.asy_risk_sketch(n, p, m, alpha, orthogonal, sigma)
    correlated = risks.asy_risk_sketch_correlated(n, p, m, alpha, orthogonal, values, sigma=sigma)
    size, number = sizes.optimal_m(alpha, sigma, n, p)
    cases.append({
        "name": f"risk {n} {p} {m} {'orthogonal' if orthogonal else 'iid'}",
        "config": {"rows": n, "columns": p, "size": m, "alpha": alpha, "sigma": sigma, "orthogonal": orthogonal},
        "inputs": {"eigenvalues": tensor(values)},
        "expected": {"risk": float(plain), "correlated": float(correlated), "best": size, "number": number},
    })

for name, n, p in [("tall", 12, 4), ("wide", 7, 10)]:
    x, y = rng.standard_normal((n, p)) + 0.5, rng.standard_normal(n) + 2.0
    centre = np.linalg.lstsq(x - x.mean(0), y - y.mean(), rcond=None)[0]
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    cases.append({
        "name": f"fit {name}",
        "config": {},
        "inputs": {"x": tensor(x), "y": tensor(y)},
        "expected": {"centred": tensor(centre), "plain": tensor(plain)},
    })

source = "statsle/SRLR_python (src/SRLR/asymptotics.py, src/SRLR/optimal_m.py), numpy"
write("stats/sketched", header(__file__, source, 159, {"f64": 1e-9}, commit=COMMIT), cases)
