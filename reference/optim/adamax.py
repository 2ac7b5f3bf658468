"""AdaMax from torch.optim (torch 2.8.0). Seed 0.

torch has no decoupled decay for it: there the script shrinks x by lr * weight_decay before torch's step, as AdamW does.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


def case(name, weight_decay=0.0, decoupled=False, **change):
    settings = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8} | change

    def shrink(params, rate):
        for t in params.values():
            t.mul_(1 - rate * weight_decay)

    def make(groups):
        return torch.optim.Adamax(
            groups,
            lr=settings["lr"],
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=0.0 if decoupled else weight_decay,
            foreach=False,
        )

    host = {"weight_decay": weight_decay, "decoupled": decoupled}
    return run(name, settings, make, host, before=shrink if decoupled else None)


cases = [
    case("plain"),
    case("betas", beta1=0.8, beta2=0.9),
    case("large_eps", eps=1e-2),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decoupled=True),
]
write("optim/adamax", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
