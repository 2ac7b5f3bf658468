"""Adafactor from torch.optim (torch 2.8.0) and from transformers (4.57.1). Seed 0.

torch bounds the moment by eps where the paper adds it to the squares, and transformers adds it: with eps next to zero all are one. Both
take the last two axes of a tensor for the matrix, we take the first and all others: their leaf p2 is the matrix that ours stands for. In
torch `lr` is the largest relative step; transformers has 1e-2 there, and no schedule with relative steps, so such cases have none.
Decoupled decay is that of transformers, whose rate has the parameter's size.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import transformers
from golden import header, write
from problem import STEPS, run, standard

DEFAULTS = {
    "lr": 1e-2,
    "relative_step": True,
    "warmup_init": False,
    "scale_parameter": True,
    "scale_floor": 1e-3,
    "clip": 1.0,
    "decay_power": 0.8,
    "beta1": 0.0,
    "eps": 1e-30,
}


def reshaped(value):
    """The case with p2 under its own shape again: the numbers stand in the same order."""
    if isinstance(value, dict):
        if value.get("shape") == [2, 6]:
            return value | {"shape": [2, 3, 2]}
        return {k: reshaped(v) for k, v in value.items()}
    return [reshaped(v) for v in value] if isinstance(value, list) else value


def case(name, kind, weight_decay=0.0, decoupled=False, **change):
    settings = DEFAULTS | change
    p = standard()
    p.shapes = p.shapes | {"p2": [2, 6]}
    if settings["relative_step"]:
        p.lr_multiplier = [1.0] * STEPS

    def from_torch(groups):
        return torch.optim.Adafactor(
            groups,
            lr=settings["lr"],
            beta2_decay=-settings["decay_power"],
            eps=(1e-150, settings["scale_floor"]),
            d=settings["clip"],
            foreach=False,
        )

    def from_transformers(groups):
        return transformers.Adafactor(
            groups,
            lr=None if settings["relative_step"] else settings["lr"],
            eps=(settings["eps"], settings["scale_floor"]),
            clip_threshold=settings["clip"],
            decay_rate=-settings["decay_power"],
            beta1=settings["beta1"] or None,
            weight_decay=weight_decay if decoupled else 0.0,
            scale_parameter=settings["scale_parameter"],
            relative_step=settings["relative_step"],
            warmup_init=settings["warmup_init"],
        )

    def couple(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    host = {"weight_decay": weight_decay, "decoupled": decoupled}
    before = couple if weight_decay and not decoupled else None
    make = {"torch": from_torch, "transformers": from_transformers}[kind]
    # torch's groups have a d too: the clip.
    return reshaped(run(name, settings, make, host, p=p, before=before, log=lambda _: {}))


FREE = {"relative_step": False, "lr": 0.05}
cases = [
    case("torch", "torch"),
    case("torch_large_step", "torch", lr=0.3),
    case("torch_clip_and_power", "torch", lr=0.3, clip=1.5, decay_power=0.5, scale_floor=0.5),
    case("transformers", "transformers"),
    case("transformers_warmup_init", "transformers", warmup_init=True),
    case("own_rate", "transformers", **FREE),
    case("own_rate_unscaled", "transformers", **FREE, scale_parameter=False),
    case("momentum", "transformers", **FREE, beta1=0.9),
    case("clip", "transformers", **FREE, clip=2.0, decay_power=0.9),
    case("weight_decay", "transformers", **FREE, scale_parameter=False, weight_decay=0.01),
    case("decoupled_weight_decay", "transformers", **FREE, weight_decay=0.01, decoupled=True),
]
source = f"packages torch {torch.__version__} and transformers {transformers.__version__}, as the cases' names say"
write("optim/adafactor", header(__file__, source, 0, {"f64": 1e-10, "f32": 1e-5}), cases)
