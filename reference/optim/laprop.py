"""LaProp: a transcription of the authors' laprop.py (Z-T-WANG/LaProp-Optimizer, commit 9373f13), which is in no package. Seed 0.

Their file gave the same numbers to 1e-15, when it was tried once, in the cases without decay. Their decay leaves the rate out and comes
after the step; the host's cases decay before it by lr * weight_decay, or add the decay to the gradient.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


class LaProp(torch.optim.Optimizer):
    def __init__(self, groups, beta1, beta2, eps):
        super().__init__(groups, {"lr": 1.0, "beta1": beta1, "beta2": beta2, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2, lr = group["beta1"], group["beta2"], group["lr"]
            for x in group["params"]:
                s = self.state[x]
                if not s:
                    s.update(square=torch.zeros_like(x), mean=torch.zeros_like(x), rates=0.0, weights=0.0)
                s["square"] = b2 * s["square"] + (1 - b2) * x.grad * x.grad
                s["rates"] = b1 * s["rates"] + (1 - b1) * lr
                s["weights"] = b2 * s["weights"] + (1 - b2)
                denominator = (s["square"] / s["weights"]).sqrt() + group["eps"]
                s["mean"] = b1 * s["mean"] + (1 - b1) * lr * (x.grad / denominator)
                x -= s["mean"] / (s["rates"] / lr)


def case(name, weight_decay=0.0, decoupled=False, **change):
    settings = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-15} | change

    def decay(params, rate):
        for t in params.values():
            if decoupled:
                t.mul_(1 - rate * weight_decay)
            else:
                t.grad.add_(t, alpha=weight_decay)

    make = lambda groups: LaProp(groups, settings["beta1"], settings["beta2"], settings["eps"])
    host = {"weight_decay": weight_decay, "decoupled": decoupled}
    return run(name, settings, make, host, before=decay if weight_decay else None)


cases = [
    case("plain"),
    case("short_memory", beta1=0.95, beta2=0.5),
    case("large_eps", eps=1e-2),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decoupled=True),
]
source = "transcription of laprop.py of Z-T-WANG/LaProp-Optimizer, 9373f13"
write("optim/laprop", header(__file__, source, 0, {"f64": 1e-10, "f32": 1e-5}), cases)
