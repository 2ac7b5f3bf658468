"""The money of the simple mixture martingale: a transcription of Vovk, Nouretdinov and Gammerman 2003. Seed 23."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import rng


def money(p, n):
    e = (np.arange(n) + 0.5) / n
    return np.log(np.prod(e[:, None] * p ** (e[:, None] - 1), axis=1).mean())


cases = []
for n in [3, 100]:
    for kind, p in [("even", rng(23).uniform(size=40)), ("small", rng(24).beta(0.5, 1.5, size=40))]:
        expected = {"log_capital": [float(money(p[: t + 1], n)) for t in range(40)]}
        settings = {"points": n}
        inputs = {"p": p.tolist()}
        cases.append({"name": f"{kind}_{n}", "config": {"settings": settings}, "inputs": inputs, "expected": expected})
source = "a transcription of Vovk, Nouretdinov and Gammerman 2003"
write("stats/simple_mixture", header(__file__, source, 23, {"f64": 1e-10}), cases)
