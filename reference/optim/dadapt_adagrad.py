"""D-Adapted AdaGrad from the authors' package (dadaptation 3.2, DAdaptAdaGrad), dense gradients. Seed 0.

The package's decay is coupled. The case `card` is the card's three-number quadratic; the script checks it against the card.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "momentum": 0.0, "eps": 1e-6} | change

    def make(groups):
        return dadaptation.DAdaptAdaGrad(
            groups,
            momentum=settings["momentum"],
            weight_decay=weight_decay,
            eps=settings["eps"],
            d0=settings["d0"],
            growth_rate=settings["growth_rate"] or float("inf"),
        )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": False}, p=problem)


cases = [
    case("plain"),
    case("momentum", momentum=0.9, d0=1e-3),
    case("growth_rate", growth_rate=1.02, d0=1e-2),
    case("large_eps", eps=1e-2),
    case("weight_decay", momentum=0.9, weight_decay=0.1),
    check_card(case("card", card()), 5.2619925151e-6, 1.7911880096e-3),
]
write("optim/dadapt_adagrad", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
