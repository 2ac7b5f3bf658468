"""DoWG: a transcription of Algorithm 1 of arXiv:2305.16284, with the authors' eps beside the root, written for this file. Seed 0.

The step and its defaults are those of optax.contrib.dowg too, which has no average.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from problem import Transcription, like, run


class Dowg:
    def __init__(self, d0, eps):
        self.square, self.v, self.eps, self.x0 = d0**2, 0.0, eps, None
        self.weights, self.points = [], []

    def rule(self, x, g, rate):
        if self.x0 is None:
            self.x0 = x.clone()
        self.square = max(self.square, float((x - self.x0) @ (x - self.x0)))
        self.v += self.square * float(g @ g)
        self.weights.append(self.square)
        self.points.append(x.clone())
        return x - rate * self.square / (self.v**0.5 + self.eps) * g

    def average(self):
        return sum(w * x for w, x in zip(self.weights, self.points)) / sum(self.weights)


def case(name, weight_decay=0.0, **change):
    settings = {"d0": 1e-2, "eps": 1e-4} | change
    method = Dowg(**settings)

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    return run(
        name,
        settings,
        lambda groups: Transcription(groups, method.rule),
        {"weight_decay": weight_decay, "decoupled": False},
        before=add_decay,
        evaluate=lambda _, params: like(params, method.average()),
        log=lambda _: {"d": method.square**0.5},
    )


cases = [
    case("plain"),
    case("small_d0", d0=1e-4, eps=1e-8),
    case("eps", eps=1.0),
    case("weight_decay", weight_decay=0.1),
]
write(
    "optim/dowg",
    header(__file__, "a transcription of arXiv:2305.16284, Algorithm 1", 0, {"f64": 1e-10, "f32": 1e-4}),
    cases,
)
