"""D-Adapted Adam from the authors' package (dadaptation 3.2, DAdaptAdam). Seed 0.

The package decays by weight_decay * dlr * x in decoupled form, with the dlr of the step before, and without the layer's
scale; we do the same. `rates` maps each leaf to its group's `layer_scale`.

The cases `card` and `card_bias_correction` are the card's three-number quadratic; the script checks them against the card.
"""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, decoupled=False, rates=None, **change):
    settings = {
        "d0": 1e-6,
        "lr": 1.0,
        "growth_rate": None,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "bias_correction": False,
    } | change

    def make(groups):
        with contextlib.redirect_stdout(io.StringIO()):
            return dadaptation.DAdaptAdam(
                groups,
                betas=(settings["beta1"], settings["beta2"]),
                eps=settings["eps"],
                weight_decay=weight_decay,
                decouple=decoupled,
                use_bias_correction=settings["bias_correction"],
                d0=settings["d0"],
                growth_rate=settings["growth_rate"] or float("inf"),
            )

    host = {"weight_decay": weight_decay, "decoupled": decoupled} | ({"rates": rates} if rates else {})
    return run(name, settings, make, host, p=problem)


cases = [
    case("plain"),
    case("bias_correction", bias_correction=True),
    case("growth_rate_1_02", growth_rate=1.02),
    case("growth_rate_1_1", growth_rate=1.1, d0=1e-2),
    case("half_the_rate", lr=0.5, growth_rate=1.1, d0=3e-4, bias_correction=True),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decoupled=True),
    case("decoupled_bias_correction", weight_decay=0.01, decoupled=True, bias_correction=True),
    case("rates", rates={"p0": 1.0, "p1": 0.5, "p2": 0.5}, weight_decay=0.01, decoupled=True),
    check_card(case("card", card()), 0.46166397329, 3.9620233790),
    check_card(case("card_bias_correction", card(), bias_correction=True), 4.2606561685e-4, 2.3000872322),
]
write("optim/dadapt_adam", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
