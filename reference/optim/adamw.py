"""Adam and AdamW from torch.optim (torch 2.8.0): decoupled decay is torch's AdamW, coupled decay its Adam. Seed 0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


def case(name, **change):
    config = {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "decouple": False} | change
    kind = torch.optim.AdamW if config["decouple"] else torch.optim.Adam

    def make(groups):
        return kind(
            groups,
            lr=config["lr"],
            betas=tuple(config["betas"]),
            eps=config["eps"],
            weight_decay=config["weight_decay"],
            foreach=False,
        )

    return run(name, config, make)


cases = [
    case("plain"),
    case("betas", betas=[0.8, 0.99]),
    case("large_eps", eps=1e-2),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decouple=True),
]
write("optim/adamw", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
