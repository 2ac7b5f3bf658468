"""The money of the plug in martingale: a transcription of what the page of the method says. Seed 23."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import rng


def money(p, n):
    grown = 1.0
    for t, x in enumerate(p):
        bins = np.floor(p[:t] * n).clip(max=n - 1)
        grown *= n * ((bins == min(np.floor(x * n), n - 1)).sum() + 1) / (t + n)
    return np.log(grown)


cases = []
for n in [4, 10]:
    for kind, p in [("even", rng(23).uniform(size=40)), ("small", rng(24).beta(0.5, 1.5, size=40))]:
        expected = {"log_capital": [float(money(p[: t + 1], n)) for t in range(40)]}
        settings = {"parts": n}
        inputs = {"p": p.tolist()}
        cases.append({"name": f"{kind}_{n}", "config": {"settings": settings}, "inputs": inputs, "expected": expected})
source = "a transcription of what the page of the method says"
write("stats/plug_in", header(__file__, source, 23, {"f64": 1e-10}), cases)
