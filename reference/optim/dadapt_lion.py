"""D-Adapted Lion from the authors' package (dadaptation 3.2, DAdaptLion). Seed 0.

The package has no limit of growth, and its decay is decoupled. The case `coupled_weight_decay` adds the decay to the gradient here and runs the package
without. The case `card` is the card's three-number quadratic; the script checks it against the card.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation
from golden import header, write
from problem import card, check_card, run


def case(name, problem=None, weight_decay=0.0, decoupled=True, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "beta1": 0.9, "beta2": 0.99} | change

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    def make(groups):
        return dadaptation.DAdaptLion(
            groups,
            betas=(settings["beta1"], settings["beta2"]),
            weight_decay=weight_decay if decoupled else 0.0,
            d0=settings["d0"],
        )

    host = {"weight_decay": weight_decay, "decoupled": decoupled}
    return run(name, settings, make, host, p=problem, before=None if decoupled else add_decay)


cases = [
    case("plain"),
    case("betas", beta1=0.95, beta2=0.98, d0=1e-4),
    case("decoupled_weight_decay", weight_decay=0.1),
    case("coupled_weight_decay", weight_decay=0.1, decoupled=False),
    check_card(case("card", card()), 1.2526184769e-5, 0.91502183709),
]
write("optim/dadapt_lion", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
