"""Core, a transcription of the loss as the method's page states it (no code of the authors is public), in f64. Seed 2.

The statistics are the batch's, mixed ones with gradients through the batch's part, or those of UnMix-TNS by its authors' module, whose first
components are drawn as in `unmix_tns.py`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from tta_stream import batches, case, model
from unmix_layers import unmixed


class Mixed(torch.nn.Module):
    """A batch norm by stored moments and the batch's, whose share is `rho`."""

    def __init__(self, norm, rho):
        super().__init__()
        self.norm, self.rho = norm, rho

    def forward(self, x):
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        mean = torch.lerp(self.norm.running_mean, mean, self.rho)
        variance = torch.lerp(self.norm.running_var, variance, self.rho)
        view = lambda v: v.view(1, -1, 1, 1)
        x = (x - view(mean)) * torch.rsqrt(view(variance) + self.norm.eps)
        return x * view(self.norm.weight) + view(self.norm.bias)


def loss_of(logits, temperature):
    p = (logits / temperature).softmax(1)
    classes, loss = p.shape[1], 0.0
    for j in range(classes):
        row = (p[:, j : j + 1] * p).sum(0)
        loss = loss + sum(row[k] for k in range(classes) if k != j) / (row.sum() + 1e-8)
    return loss / classes


def run(name, optimiser, settings, kind="batch", temperature=1.0, statistics=None):
    net, named = model(kind, statistics="batch" if statistics is None else "stored")
    if statistics and statistics["method"] == "alpha_bn":
        for path, norm in list(net.named_modules()):
            if isinstance(norm, torch.nn.BatchNorm2d):
                parent, _, own = path.rpartition(".")
                setattr(net.get_submodule(parent), own, Mixed(norm, statistics["settings"]["target_weight"]))
    elif statistics:
        net = unmixed(net, **statistics["settings"])
        named = {path: p.requires_grad_(True) for path, p in net.named_parameters() if path in named}
    made = torch.optim.Adam if optimiser["method"] == "adamw" else torch.optim.SGD
    opt = made(named.values(), **settings)
    out = []
    for x in batches:
        opt.zero_grad()
        logits = net(x)
        loss_of(logits, temperature).backward()
        opt.step()
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}})
    host = {"train": "norm_tuning", "optimiser": optimiser} | ({"statistics": statistics} if statistics else {})
    return case(name, {"temperature": temperature}, host, out, kind)


adam = {"method": "adamw", "settings": {"lr": 1e-3}}, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
sgd = (
    {"method": "sgd", "settings": {"lr": 1e-2, "momentum": 0.9, "nesterov": False}},
    {"lr": 1e-2, "momentum": 0.9},
)
cases = [
    run("adam", *adam),
    run("sgd_softened", *sgd, temperature=2.5),
    run("over_alpha_bn", *adam, statistics={"method": "alpha_bn", "settings": {"target_weight": 0.7}}),
    run("over_unmix_tns", *adam, statistics={"method": "unmix_tns", "settings": {"components": 4, "momentum": 0.5}}),
    run("group", *adam, kind="group"),
]
write("tta/core", header(__file__, "transcription of the method's page", 2, {"f64": 1e-10, "f32": 1e-3}), cases)
