"""AMSGrad from torch.optim.Adam and AdamW with `amsgrad=True` (torch 2.8.0): decoupled decay is torch's AdamW. Seed 0.

torch corrects the moments for their zero start, the paper does not: the case `uncorrected` is the paper's recursion written out here.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


class Uncorrected(torch.optim.Optimizer):
    """Algorithm 2 of the paper without its projection, eps outside the root."""

    def __init__(self, groups, lr, betas, eps):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for x in group["params"]:
                zeros = [torch.zeros_like(x) for _ in range(3)]
                m, v, largest = self.state[x].get("past", zeros)
                m = group["betas"][0] * m + (1 - group["betas"][0]) * x.grad
                v = group["betas"][1] * v + (1 - group["betas"][1]) * x.grad**2
                largest = torch.where(v > largest, v, largest)
                self.state[x]["past"] = (m, v, largest)
                x -= group["lr"] * m / (largest**0.5 + group["eps"])


def case(name, weight_decay=0.0, decoupled=False, **change):
    settings = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "bias_correction": True} | change
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    betas = (settings["beta1"], settings["beta2"])

    def make(groups):
        if not settings["bias_correction"]:
            return Uncorrected(groups, settings["lr"], betas, settings["eps"])
        return kind(
            groups,
            lr=settings["lr"],
            betas=betas,
            eps=settings["eps"],
            weight_decay=weight_decay,
            amsgrad=True,
            foreach=False,
        )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": decoupled})


cases = [
    case("plain"),
    # A short memory, so that the maximum and the moment differ.
    case("betas", beta1=0.8, beta2=0.9),
    case("uncorrected", beta2=0.9, bias_correction=False),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decoupled=True),
]
write("optim/amsgrad", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
