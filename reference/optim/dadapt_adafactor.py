"""D-Adapted Adam with a factored second moment: no package has it. Seed 0.

The recursion is that of dadaptation 3.2 (DAdaptAdam), written out here over lists of matrices, with the moment of each matrix rebuilt from
the sums of its rows and columns. The case `vector` is the three-number quadratic, where nothing is factored: the script checks it against
the package's figures.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import card, check_card, run


class Factored(torch.optim.Optimizer):
    def __init__(self, groups, settings, weight_decay):
        groups = [{"layer_scale": 1.0} | group for group in groups]
        super().__init__(groups, {"lr": 1.0, "d": settings["d0"]})
        self.settings, self.weight_decay = settings, weight_decay
        self.k, self.numerator = 0, 0.0

    def moment(self, x):
        """The second moment that the sums stand for."""
        kept = self.state[x]
        if x.dim() == 1:
            return kept["whole"]
        rows, columns = kept["rows"], kept["columns"]
        if not rows.sum():
            return torch.zeros_like(x)
        return (torch.outer(rows, columns) / rows.sum()).reshape(x.shape)

    @torch.no_grad()
    def step(self):
        s = self.settings
        b1, b2, b = s["beta1"], s["beta2"], math.sqrt(s["beta2"])
        d, gamma = self.param_groups[0]["d"], self.param_groups[0]["lr"]
        correction = math.sqrt(1 - b2 ** (self.k + 1)) / (1 - b1 ** (self.k + 1)) if s["bias_correction"] else 1.0
        rate = d * gamma * correction
        leaves = [(x, group["layer_scale"]) for group in self.param_groups for x in group["params"]]
        product = length = 0.0
        for x, scale in leaves:
            kept = self.state[x]
            if not kept:
                kept.update(mean=torch.zeros_like(x), sum=torch.zeros_like(x))
                if x.dim() == 1:
                    kept["whole"] = torch.zeros_like(x)
                else:
                    kept.update(rows=torch.zeros(len(x)).to(x), columns=torch.zeros(x.numel() // len(x)).to(x))
            product += scale * (x.grad * kept["sum"] / (self.moment(x).sqrt() + s["eps"])).sum().item()
            if x.dim() == 1:
                kept["whole"] = b2 * kept["whole"] + (1 - b2) * x.grad**2
            else:
                squares = x.grad.reshape(len(x), -1) ** 2
                kept["rows"] = b2 * kept["rows"] + (1 - b2) * squares.sum(1)
                kept["columns"] = b2 * kept["columns"] + (1 - b2) * squares.sum(0)
            kept["mean"] = b1 * kept["mean"] + (1 - b1) * scale * rate * x.grad
            kept["sum"] = b * kept["sum"] + (1 - b) * rate * x.grad
            length += scale * kept["sum"].abs().sum().item()
        self.numerator = b * self.numerator + (1 - b) * rate * product
        estimate = self.numerator / ((1 - b) * length)
        for x, _ in leaves:
            x *= 1 - self.weight_decay * rate
            x -= self.state[x]["mean"] / (self.moment(x).sqrt() + s["eps"])
        for group in self.param_groups:
            group["d"] = max(d, min(estimate, d * (s["growth_rate"] or math.inf)))
        self.k += 1


def case(name, problem=None, weight_decay=0.0, rates=None, **change):
    settings = {
        "d0": 1e-6,
        "growth_rate": None,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "bias_correction": False,
    } | change
    host = {"weight_decay": weight_decay, "decoupled": True} | ({"rates": rates} if rates else {})
    return run(name, settings, lambda groups: Factored(groups, settings, weight_decay), host, p=problem)


cases = [
    case("plain"),
    case("bias_correction", bias_correction=True),
    case("growth_rate", growth_rate=1.1, d0=1e-2, bias_correction=True),
    case("decoupled_weight_decay", weight_decay=0.01),
    case("rates", rates={"p0": 1.0, "p1": 0.5, "p2": 0.5}, weight_decay=0.01),
    check_card(case("vector", card()), 0.46166397329, 3.9620233790),
]
source = "transcription of dadaptation 3.2 with the moment of Adafactor"
write("optim/dadapt_adafactor", header(__file__, source, 0, {"f64": 1e-10, "f32": 1e-4}), cases)
