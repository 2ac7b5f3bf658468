"""MoMo-Adam from the authors' package (momo-opt 0.1.0), with the loss of each step. Seed 0.

The package begins some of its means in torch's default number type, which is set to f64 here.
"""

import sys
from pathlib import Path

# In place of this folder, where a file has the name of the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import momo
import torch
from golden import header, write
from problem import loss, run, standard

torch.set_default_dtype(torch.float64)


class WithLoss:
    """The package's optimiser, told the loss before each step."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.zero_grad = inner, inner.param_groups, inner.zero_grad

    def step(self):
        self.inner.step(loss=self.loss)


def case(name, weight_decay=0.0, **change):
    settings = {
        "lr": 0.05,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "lower_bound": 0.0,
        "estimate_bound": False,
    } | change
    made, p = [], standard()

    def make(groups):
        inner = momo.MomoAdam(
            groups,
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            divide=True,
            weight_decay=weight_decay,
            lb=settings["lower_bound"],
            use_fstar=settings["estimate_bound"],
        )
        made.append(WithLoss(inner))
        return made[0]

    def before(params, _rate):
        made[0].loss = loss(p, params)

    log = lambda o: {"lower_bound": o.inner.lb} if settings["estimate_bound"] else {}
    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": True}, p=p, before=before, log=log)


cases = [
    case("plain"),
    case("large_lr", lr=10.0),
    case("betas", beta1=0.5, beta2=0.99, lr=1.0),
    case("lower_bound", lower_bound=20.0, lr=1.0),
    case("estimate_bound", estimate_bound=True, lr=1.0, lower_bound=-1.0),
    case("decoupled_weight_decay", weight_decay=0.1, lr=1.0),
    case("estimate_bound_decoupled_weight_decay", weight_decay=0.1, estimate_bound=True, lr=1.0),
]
write("optim/momo_adam", header(__file__, "momo-opt", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
