"""DoG with polynomial averaging from the authors' package (dog-optimizer 1.0.3). Seed 0.

The package's decay is coupled. Its averager wants a module with a device; one without parameters holds the leaves as buffers.
"""

import sys
from pathlib import Path

# In place of this folder, where a file has the name of the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import dog
import torch
from golden import header, write
from problem import run


class Averaged:
    def __init__(self, groups, settings, weight_decay):
        self.inner = dog.DoG(groups, reps_rel=settings["r_eps"], eps=settings["eps"], weight_decay=weight_decay)
        self.model = torch.nn.Module()
        self.model.device = torch.device("cpu")
        self.leaves = [t for group in groups for t in group["params"]]
        for i, t in enumerate(self.leaves):
            self.model.register_buffer(f"p{i}", t)
        self.averager = dog.PolynomialDecayAverager(self.model, gamma=settings["averaging"])
        self.param_groups, self.zero_grad = self.inner.param_groups, self.inner.zero_grad

    def step(self):
        self.inner.step()
        self.averager.step()


def case(name, weight_decay=0.0, **change):
    settings = {"r_eps": 1e-6, "eps": 1e-8, "averaging": 8.0} | change
    return run(
        name,
        settings,
        lambda groups: Averaged(groups, settings, weight_decay),
        {"weight_decay": weight_decay, "decoupled": False},
        evaluate=lambda o, params: dict(zip(params, o.averager.averaged_model.state_dict().values())),
        log=lambda o: {"d": float(o.param_groups[0]["rbar"])},
    )


cases = [
    case("plain"),
    case("large_r_eps", r_eps=1e-2),
    case("mean", r_eps=1e-3, averaging=0.0),
    case("eps", r_eps=1e-3, eps=10.0),
    case("weight_decay", r_eps=1e-3, weight_decay=0.1),
]
write("optim/dog", header(__file__, "dog-optimizer", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
