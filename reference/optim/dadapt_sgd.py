"""D-Adapted SGD from the authors' package (dadaptation 3.2, DAdaptSGD). Seed 0.

Where the package slips: its norm of the first gradient leaves the weight decay out (`grad.add(...)` without the
underscore). We follow the paper, where g is the gradient of the decayed loss: the case `weight_decay` adds the decay to the
gradient here and runs the package without decay. The case `weight_decay_package` is the package as it stands and says
`"compat": "package"`. The package also divides by zero on an all-zero first gradient, and reads momentum,
decay and growth rate from the first group only; no case touches these.

The cases `card` and `card_momentum` are the card's three-number quadratic; the script checks them against the card.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, compat=None, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "momentum": 0.0} | change

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    def make(groups):
        return dadaptation.DAdaptSGD(
            groups,
            momentum=settings["momentum"],
            weight_decay=weight_decay if compat else 0.0,
            d0=settings["d0"],
            growth_rate=settings["growth_rate"] or float("inf"),
        )

    host = {"weight_decay": weight_decay, "decoupled": False}
    before = add_decay if weight_decay and not compat else None
    return run(name, settings, make, host, p=problem, before=before, compat=compat)


cases = [
    case("plain"),
    case("momentum", momentum=0.9),
    case("growth_rate", growth_rate=1.02),
    case("growth_rate_large_d0", growth_rate=1.02, d0=1e-2, momentum=0.9),
    case("weight_decay", momentum=0.9, weight_decay=0.01),
    case("weight_decay_package", momentum=0.9, weight_decay=0.01, compat="package"),
    check_card(case("card", card()), 9.8007448281e-5, 2.0057588879),
    check_card(case("card_momentum", card(), momentum=0.9), 9.8009509462e-5, 6.2274278119),
]
write("optim/dadapt_sgd", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
