"""ALLoRA on AdamW: no package has it in this form. Seed 0.

Each step is that of torch.optim.AdamW (torch 2.8.0), whose movement of the output factor is then scaled row by row. The decay is left as it
is: it is taken out of the movement before the scaling.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import factors, run


class Scaled(torch.optim.AdamW):
    def __init__(self, groups, eta, norm, **settings):
        super().__init__(groups, foreach=False, **settings)
        self.eta, self.norm = eta, norm

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        a, b, _ = group["params"]
        before = b.clone()
        rows = torch.stack([row @ a if self.norm == "update" else row for row in b])
        c = [1 / (row.norm() + self.eta**-2).sqrt() for row in rows]
        super().step()
        kept = before * (1 - group["lr"] * group["weight_decay"])
        for i, factor in enumerate(c):
            b[i] = kept[i] + factor * (b[i] - kept[i])


def case(name, weight_decay=0.0, **change):
    settings = {"lr": 0.05, "eta": 2.0, "norm": "update", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8} | change

    def make(groups):
        return Scaled(
            groups,
            settings["eta"],
            settings["norm"],
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=weight_decay,
        )

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": True}, p=factors())


cases = [
    case("plain"),
    case("eta", eta=7.0),
    case("factor", norm="factor"),
    case("decoupled_weight_decay", weight_decay=0.01),
]
source = f"torch {torch.__version__} with rows scaled by a transcription of arXiv:2410.09692"
write("optim/allora", header(__file__, source, 0, {"f64": 1e-10, "f32": 1e-5}), cases)
