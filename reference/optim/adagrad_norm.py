"""AdaGrad-Norm: a transcription of algorithm 1 of arXiv:1806.01811, written for this file. Seed 0.

The code published with AdAdaGrad (github.com/timlautk/AdAdaGrad, adagradnorm.py) keeps a number for each output row of a matrix, where the
paper has one for all parameters, and its weight decay subtracts the gradient once more; so it is not the source. The sum is kept here as the
list of all squared norms. A coupled decay is in the gradient that is summed; a decoupled one shrinks x by the step's own rate,
lr / sqrt(v), before the step.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


class AdagradNorm:
    def __init__(self, groups, v0, decay):
        self.param_groups, self.v0, self.decay = groups, v0, decay
        self.norms = []

    def zero_grad(self):
        for group in self.param_groups:
            for t in group["params"]:
                t.grad = None

    @torch.no_grad()
    def step(self):
        self.norms.append(sum(float((t.grad**2).sum()) for group in self.param_groups for t in group["params"]))
        for group in self.param_groups:
            rate = group["lr"] * group.get("layer_scale", 1.0) / (self.v0 + sum(self.norms)) ** 0.5
            for t in group["params"]:
                t.sub_(rate * self.decay * t)
                t.sub_(rate * t.grad)


def case(name, weight_decay=0.0, decoupled=False, rates=None, **change):
    settings = {"lr": 1.0, "v0": 1e-2} | change

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    host = {"weight_decay": weight_decay, "decoupled": decoupled}
    return run(
        name,
        settings,
        lambda groups: AdagradNorm(groups, settings["v0"], weight_decay if decoupled else 0.0),
        host | ({"rates": rates} if rates else {}),
        before=None if decoupled else add_decay,
    )


cases = [
    case("plain"),
    case("large_rate", lr=10.0),
    case("large_start", lr=10.0, v0=1e3),
    case("weight_decay", lr=5.0, weight_decay=0.1),
    case("decoupled_weight_decay", lr=5.0, weight_decay=0.1, decoupled=True),
    case("relative_rates", lr=5.0, rates={"p0": 1.0, "p1": 4.0, "p2": 0.25}),
]
write(
    "optim/adagrad_norm",
    header(__file__, "a transcription of arXiv:1806.01811, algorithm 1", 0, {"f64": 1e-10, "f32": 1e-5}),
    cases,
)
