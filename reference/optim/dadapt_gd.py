"""D-Adapted gradient descent: a transcription of the variant in arXiv:2301.07733, written for this file. Seed 0.

No package has the method. It keeps x0, all weights and the average as the paper writes them, and takes the estimate by squared norms
(the other formula, of inner products, is the same number; the script checks that). The schedule's multiplier multiplies d.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import Transcription, card, like, run


class GradientDescent:
    def __init__(self, d0, growth_rate, bound):
        self.d, self.growth_rate, self.bound = d0, growth_rate or float("inf"), bound
        self.s = None
        self.norms, self.rates, self.points, self.products = [], [], [], []

    def rule(self, x, g, rate):
        if self.s is None:
            self.x0, self.s = x.clone(), torch.zeros_like(x)
        self.norms.append(float(g @ g))
        step = self.d * rate / (self.bound**2 + sum(self.norms)) ** 0.5
        self.points.append(x.clone())
        self.rates.append(step)
        self.products.append(step * float(g @ self.s))
        self.s = self.s + step * g
        size = float(self.s.norm())
        d_hat = (size**2 - sum(l**2 * n for l, n in zip(self.rates, self.norms))) / (2 * size)
        assert abs(d_hat - sum(self.products) / size) < 1e-12 * (1 + abs(d_hat))
        self.d = max(self.d, min(d_hat, self.growth_rate * self.d))
        return self.x0 - self.s

    def average(self):
        return sum(w * x for w, x in zip(self.rates, self.points)) / sum(self.rates)


def case(name, problem=None, weight_decay=0.0, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "gradient_bound": 0.0} | change
    method = GradientDescent(settings["d0"], settings["growth_rate"], settings["gradient_bound"])

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    return run(
        name,
        settings,
        lambda groups: Transcription(groups, method.rule),
        {"weight_decay": weight_decay, "decoupled": False},
        p=problem,
        before=add_decay,
        evaluate=lambda _, params: like(params, method.average()),
        log=lambda _: {"d": method.d},
    )


cases = [
    case("plain"),
    case("large_d0", d0=1e-2),
    case("gradient_bound", d0=1e-2, gradient_bound=20.0),
    case("growth_rate", growth_rate=1.02, d0=1e-1),
    case("weight_decay", weight_decay=0.1, d0=1e-2),
    case("card", card()),
]
write(
    "optim/dadapt_gd",
    header(__file__, "a transcription of arXiv:2301.07733, gradient descent", 0, {"f64": 1e-10, "f32": 1e-4}),
    cases,
)
