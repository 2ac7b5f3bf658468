"""D-Adapted Adan with inner products from the authors' package (dadaptation 3.2, experimental.DAdaptAdanIP). Seed 0.

The package exchanges the names of the buffers of n and v in both of its loops, which changes nothing.

The package's decay is decoupled, by `proximal` (its default) or as in AdamW (its `no_prox`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dadaptation.experimental
from golden import header, write
from problem import run


def case(name, weight_decay=0.0, **change):
    settings = {
        "d0": 1e-6,
        "growth_rate": None,
        "beta1": 0.98,
        "beta2": 0.92,
        "beta3": 0.99,
        "eps": 1e-8,
        "proximal": True,
    } | change

    def make(groups):
        return dadaptation.experimental.DAdaptAdanIP(
            groups,
            betas=(settings["beta1"], settings["beta2"], settings["beta3"]),
            eps=settings["eps"],
            weight_decay=weight_decay,
            no_prox=not settings["proximal"],
            d0=settings["d0"],
            growth_rate=settings["growth_rate"] or float("inf"),
        )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": True})


cases = [
    case("plain"),
    case("betas", beta1=0.9, beta2=0.8, beta3=0.95),
    case("growth_rate", growth_rate=1.02, d0=1e-2),
    case("proximal_decay", weight_decay=0.1),
    case("decay_before_the_step", weight_decay=0.1, proximal=False),
]
write("optim/dadapt_adan_ip", header(__file__, "dadaptation", 0, {"f64": 1e-10, "f32": 1e-4}), cases)
