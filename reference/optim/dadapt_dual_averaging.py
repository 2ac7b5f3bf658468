"""D-Adapted dual averaging: a transcription of Algorithm 1 of arXiv:2301.07733 with both options, written for this file. Seed 0.

No package has the method. It keeps x0, all weights and the average as the paper writes them. The schedule's multiplier multiplies d
in the weights. The cases `card_norms` and `card_products` are the card's three-number quadratic; the script checks them
against the card.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import Transcription, card, check_card, like, run


class DualAveraging:
    def __init__(self, form, d0, growth_rate):
        self.form, self.d, self.growth_rate = form, d0, growth_rate or float("inf")
        self.x0 = None
        self.norms = []  # squared, of all gradients
        self.terms = []  # of the estimate's sum
        self.weights = []
        self.points = []

    def gamma(self, k):
        """The step before gradient k: of the gradients up to k - 1, and 1 / norm of the first for k = 0."""
        return sum(self.norms[: max(k, 1)]) ** -0.5

    def rule(self, x, g, rate):
        if self.x0 is None:
            self.x0, self.s = x.clone(), torch.zeros_like(x)
        k = len(self.norms)
        self.norms.append(float(g @ g))
        weight = self.d * rate
        self.points.append(x.clone())
        self.weights.append(weight)
        if self.form == "norms":
            self.terms.append(self.gamma(k) * weight**2 * self.norms[-1])
        else:
            self.terms.append(self.gamma(k) * weight * float(g @ self.s))
        self.s = self.s + weight * g
        size = float(self.s.norm())
        if self.form == "norms":
            d_hat = (self.gamma(k + 1) * size**2 - sum(self.terms)) / (2 * size)
        else:
            d_hat = sum(self.terms) / size
        self.d = max(self.d, min(d_hat, self.growth_rate * self.d))
        return self.x0 - self.gamma(k + 1) * self.s

    def average(self):
        return sum(w * x for w, x in zip(self.weights, self.points)) / sum(self.weights)


def case(name, problem=None, weight_decay=0.0, **change):
    settings = {"d0": 1e-6, "growth_rate": None, "form": "products"} | change
    method = DualAveraging(settings["form"], settings["d0"], settings["growth_rate"])

    def add_decay(params, _rate):
        for t in params.values():
            t.grad.add_(t, alpha=weight_decay)

    return run(
        name,
        settings,
        lambda groups: Transcription(groups, method.rule),
        {"weight_decay": weight_decay, "decoupled": False},
        p=problem,
        before=add_decay,
        evaluate=lambda _, params: like(params, method.average()),
        log=lambda _: {"d": method.d},
    )


cases = [
    case("norms", form="norms", d0=1e-2),
    case("products", d0=1e-2),
    case("products_small_d0"),
    case("growth_rate", growth_rate=1.02, d0=1e-1),
    case("weight_decay", weight_decay=0.1, d0=1e-2),
    check_card(case("card_norms", card(), form="norms"), 1.3435852691e-6, 2.2729047483e-5),
    check_card(case("card_products", card()), 2.3653758998e-6, 5.5456407492e-5),
]
write(
    "optim/dadapt_dual_averaging",
    header(__file__, "a transcription of arXiv:2301.07733, Algorithm 1", 0, {"f64": 1e-10, "f32": 1e-4}),
    cases,
)
