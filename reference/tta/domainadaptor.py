"""DomainAdaptor by its authors' classes (koncle/DomainAdaptor, models/DomainAdaptor.py) in f64. Seed 2.

For each batch, as their loop does: the first weights, one pass whose norms take their transformed scales and shifts, one step of plain SGD,
and the answer of a second pass that transforms nothing again. A fixed `target_weight` is one less their `lambd`. With group norms the
loss is what remains.

Their product of entropies `[B]` and squared temperatures `[B, 1]` has all pairs. So their loss is asked row by row here, which leaves each row
its own temperature; the `mean_scale` cases ask it once for all rows, as they do.
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import batches, case, model

REPOSITORY, PATH = "koncle/DomainAdaptor", "models/DomainAdaptor.py"
COMMIT = "5c3d24efb465a56a9a8b57454ea0d23b4ed819c8"
torch.set_default_dtype(torch.float64)
theirs = take(REPOSITORY, COMMIT, PATH, ["AdaMixBN", "Losses"])


def run(name, loss="gem_t", lr=0.05, weight=None, kind="batch", compat="none"):
    net, _ = model(kind, statistics="stored")
    norms = []
    for path, norm in list(net.named_modules()):
        if isinstance(norm, torch.nn.BatchNorm2d):
            parent, _, own = path.rpartition(".")
            norms.append(theirs.AdaMixBN(norm.num_features, lambd=None if weight is None else 1 - weight))
            norms[-1].load_state_dict(norm.state_dict())
            setattr(net.get_submodule(parent), own, norms[-1])
    net.train()
    trained = [p for path, p in net.named_parameters() if "norm" in path.split(".")[-2]]
    start = copy.deepcopy(net.state_dict())
    optimiser, losses, out = torch.optim.SGD(trained, lr=lr), theirs.Losses(), []
    for x in batches:
        net.load_state_dict(start)
        for norm in norms:
            norm.reset()
        logits, key = net(x), loss.replace("_", "-")
        rows = [logits] if compat == "mean_scale" else logits.split(1)
        value = torch.stack([losses.get_loss(key, logits=row)[key]["loss"] for row in rows]).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        with torch.no_grad():
            out.append({"logits": net(x)})
    settings = {"loss": loss, "compat": compat} | ({} if weight is None else {"target_weight": weight})
    sgd = {"method": "sgd", "settings": {"lr": lr, "momentum": 0.0, "nesterov": False}}
    return case(name, settings, {"train": "norm_tuning", "optimiser": sgd}, out, kind)


cases = [
    run("gem_t"),
    run("gem_skd", loss="gem_skd"),
    run("em", loss="em"),
    run("fixed", weight=0.3),
    run("gem_t_mean_scale", compat="mean_scale"),
    run("gem_skd_mean_scale", loss="gem_skd", compat="mean_scale"),
    run("group", kind="group"),
]
source = f"{REPOSITORY} ({PATH})"
write("tta/domainadaptor", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-3}, commit=COMMIT), cases)
