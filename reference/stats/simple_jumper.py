"""The money of the simple jumper martingale: a transcription of Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021. Seed 23."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import rng


def money(p, n):
    c = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}
    for x in p:
        total = sum(c.values())
        c = {e: ((1 - n) * c[e] + n / 3 * total) * (1 + e * (x - 0.5)) for e in c}
    return np.log(sum(c.values()))


cases = []
for n in [0.01, 0.3]:
    for kind, p in [("even", rng(23).uniform(size=40)), ("small", rng(24).beta(0.5, 1.5, size=40))]:
        expected = {"log_capital": [float(money(p[: t + 1], n)) for t in range(40)]}
        settings = {"jump": n}
        inputs = {"p": p.tolist()}
        cases.append({"name": f"{kind}_{n}", "config": {"settings": settings}, "inputs": inputs, "expected": expected})
source = "a transcription of Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021"
write("stats/simple_jumper", header(__file__, source, 23, {"f64": 1e-10}), cases)
