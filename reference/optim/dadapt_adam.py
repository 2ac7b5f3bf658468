"""D-Adapted Adam from the authors' package (dadaptation 3.2, DAdaptAdam). Seed 0.

The package decays by weight_decay * dlr * x in decoupled form, with the dlr of the step before, and without the layer's
scale; we do the same. `layer_scale` maps each leaf to its group's scale.

The cases `card` and `card_bias_correction` are the card's three-number quadratic; the script checks them against the card.
"""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation
from golden import header, write
from problem import card, run

DEFAULTS = {
    "lr": 1.0,
    "d0": 1e-6,
    "growth_rate": None,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decouple": False,
    "use_bias_correction": False,
}


def case(name, problem=None, **change):
    config = DEFAULTS | change

    def make(groups):
        with contextlib.redirect_stdout(io.StringIO()):
            return dadaptation.DAdaptAdam(
                groups,
                betas=tuple(config["betas"]),
                eps=config["eps"],
                weight_decay=config["weight_decay"],
                decouple=config["decouple"],
                use_bias_correction=config["use_bias_correction"],
                d0=config["d0"],
                growth_rate=config["growth_rate"] or float("inf"),
            )

    return run(name, config, make, p=problem, layer_scale=config.get("layer_scale"))


def check(case, d10, d50):
    d = {step["step"]: step["d"] for step in case["expected"]["steps"]}
    assert abs(d[10] / d10 - 1) < 1e-9 and abs(d[50] / d50 - 1) < 1e-9, (case["name"], d)
    return case


cases = [
    case("plain"),
    case("bias_correction", use_bias_correction=True),
    case("growth_rate_1_02", growth_rate=1.02),
    case("growth_rate_1_1", growth_rate=1.1, d0=1e-2),
    case("weight_decay", weight_decay=0.01),
    case("decoupled_weight_decay", weight_decay=0.01, decouple=True),
    case("decoupled_bias_correction", weight_decay=0.01, decouple=True, use_bias_correction=True),
    case("layer_scale", layer_scale={"p0": 1.0, "p1": 0.5, "p2": 0.5}, weight_decay=0.01, decouple=True),
    check(case("card", card()), 0.46166397329, 3.9620233790),
    check(case("card_bias_correction", card(), use_bias_correction=True), 4.2606561685e-4, 2.3000872322),
]
write("optim/dadapt_adam", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
