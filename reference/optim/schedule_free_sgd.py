"""Schedule-free SGD from the authors' package (schedulefree 1.4.1). Seed 0.

The package adds its decay at y to the gradient; `decoupled` is the same path under the host's other form.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import schedulefree
from golden import header, write
from problem import run


def case(name, weight_decay=0.0, decoupled=False, **change):
    settings = {"lr": 0.05, "momentum": 0.9, "power": 0.0} | change

    def make(groups):
        optimiser = schedulefree.SGDScheduleFree(
            groups, momentum=settings["momentum"], weight_decay=weight_decay, r=settings["power"], foreach=False
        )
        optimiser.train()
        return optimiser

    def evaluate(o, params):
        return {k: t.detach().lerp(o.state[t]["z"], 1 - 1 / settings["momentum"]) for k, t in params.items()}

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": decoupled}, evaluate=evaluate)


cases = [
    case("plain"),
    case("momentum", momentum=0.5, lr=0.1),
    case("power", power=2.0),
    case("weight_decay", weight_decay=0.1),
    case("decoupled_weight_decay", weight_decay=0.1, decoupled=True),
]
write("optim/schedule_free_sgd", header(__file__, "schedulefree", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
