"""Adam and AdamW from torch.optim (torch 2.8.0): decoupled decay is torch's AdamW, coupled decay its Adam. Seed 0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


def case(name, weight_decay=0.0, decoupled=False, **change):
    settings = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8} | change
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam

    def make(groups):
        return kind(
            groups,
            lr=settings["lr"],
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=weight_decay,
            foreach=False,
        )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": decoupled})


cases = [
    case("plain"),
    case("betas", beta1=0.8, beta2=0.99),
    case("large_eps", eps=1e-2),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decoupled=True),
]
write("optim/adamw", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
