"""Schedule-free AdamW from the authors' package (schedulefree 1.4.1). Seed 0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import schedulefree
from golden import header, write
from problem import run


def case(name, weight_decay=0.0, **change):
    settings = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "power": 0.0} | change

    def make(groups):
        optimiser = schedulefree.AdamWScheduleFree(
            groups,
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=weight_decay,
            r=settings["power"],
            foreach=False,
        )
        optimiser.train()
        return optimiser

    def evaluate(o, params):
        return {k: t.detach().lerp(o.state[t]["z"], 1 - 1 / settings["beta1"]) for k, t in params.items()}

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": True}, evaluate=evaluate)


cases = [
    case("plain"),
    case("betas", beta1=0.5, beta2=0.99),
    case("power", power=2.0),
    case("large_eps", eps=1e-2),
    case("decoupled_weight_decay", weight_decay=0.1),
]
write("optim/schedule_free_adamw", header(__file__, "schedulefree", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
