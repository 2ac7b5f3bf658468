"""SGD with momentum, Nesterov's form and both kinds of weight decay, from torch.optim.SGD (torch 2.8.0). Seed 0.

torch has no decoupled decay for SGD: there the script shrinks x by lr * weight_decay before torch's step, as AdamW does.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import run


def case(name, **change):
    config = {"lr": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "decouple": False} | change
    decay = config["weight_decay"]

    def shrink(params, rate):
        for t in params.values():
            t.mul_(1 - rate * decay)

    def make(groups):
        coupled = 0.0 if config["decouple"] else decay
        return torch.optim.SGD(
            groups, lr=config["lr"], momentum=config["momentum"], nesterov=config["nesterov"], weight_decay=coupled
        )

    return run(name, config, make, before=shrink if config["decouple"] else None)


cases = [
    case("plain"),
    case("momentum", momentum=0.9),
    case("nesterov", momentum=0.9, nesterov=True),
    case("weight_decay", momentum=0.9, weight_decay=0.01),
    case("decoupled_weight_decay", momentum=0.9, weight_decay=0.01, decouple=True),
]
write("optim/sgd", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
