"""D-Adapted Adam of the preprint from the authors' package (dadaptation 3.2, experimental.DAdaptAdamPreprint). Seed 0.

The case `card` is the card's three-number quadratic; the script checks it against the card.
"""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation.experimental
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, decoupled=False, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8} | change

    def make(groups):
        with contextlib.redirect_stdout(io.StringIO()):
            return dadaptation.experimental.DAdaptAdamPreprint(
                groups,
                betas=(settings["beta1"], settings["beta2"]),
                eps=settings["eps"],
                weight_decay=weight_decay,
                decouple=decoupled,
                d0=settings["d0"],
                growth_rate=settings["growth_rate"] or float("inf"),
            )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": decoupled}, p=problem)


cases = [
    case("plain"),
    case("betas", beta1=0.8, beta2=0.99),
    case("growth_rate", growth_rate=1.02, d0=1e-2),
    case("weight_decay", weight_decay=0.1),
    case("decoupled_weight_decay", weight_decay=0.1, decoupled=True),
    check_card(case("card", card()), 5.1826095602, 12.167687995),
]
write("optim/dadapt_adam_preprint", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
