"""Prodigy from the authors' package (prodigyopt 1.1.2). Seed 0.

`decoupled` is the package's `decouple`. The case `card` is the card's three-number quadratic; the script checks it against the
card. The case `d_coef` begins at 1e-4: the package's x0 - x has lost ten digits when x has moved by 1e-6, and a path that grows
as fast as this one tells it.
"""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import prodigyopt
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, decoupled=False, **change):
    settings = {
        "d0": 1e-6,
        "d_coef": 1.0,
        "growth_rate": None,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "bias_correction": False,
        "safeguard_warmup": False,
        "slice_p": 1,
    } | change

    def make(groups):
        with contextlib.redirect_stdout(io.StringIO()):
            return prodigyopt.Prodigy(
                groups,
                betas=(settings["beta1"], settings["beta2"]),
                beta3=settings.get("beta3"),
                eps=settings["eps"],
                weight_decay=weight_decay,
                decouple=decoupled,
                use_bias_correction=settings["bias_correction"],
                safeguard_warmup=settings["safeguard_warmup"],
                d0=settings["d0"],
                d_coef=settings["d_coef"],
                growth_rate=settings["growth_rate"] or float("inf"),
                slice_p=settings["slice_p"],
            )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": decoupled}, p=problem)


cases = [
    case("plain"),
    case("bias_correction", bias_correction=True),
    case("safeguard_warmup", safeguard_warmup=True),
    case("d_coef", d_coef=2.0, bias_correction=True, d0=1e-4),
    case("growth_rate", growth_rate=1.02, d0=1e-2),
    case("beta3", beta3=0.99),
    case("slice_p", slice_p=3),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.1, decoupled=True),
    case("decoupled_weight_decay_slice_p", weight_decay=0.1, decoupled=True, slice_p=5, bias_correction=True),
    check_card(case("card", card()), 3.8737104966e-3, 0.97979037587),
]
write("optim/prodigy", header(__file__, "prodigyopt", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
