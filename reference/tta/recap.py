"""ReCAP in f64: a transcription of the bounds on its page. Seed 2.

There is no code of the authors. Variances are numpy's (divided by the number of rows) of features of the reference batches under
the stored statistics. For each batch: forward with the batch's own statistics, A by torch's logsumexp of a_j - a_i + Q_ij, the
region's entropy and instability, rows whose entropy is below a share of ln K weighted by exp(bound - entropy), their mean, one
optimiser step on scales and shifts of the norms. Without a share all rows count alike; without a region the loss is Tent's.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy
import torch
from golden import header, write
from tta_stream import ADAM, adam, batches, case, features, model, reference


def run(name, settings, kind="batch"):
    (net, named), (stored, _) = model(kind), model(kind, "none", "stored")
    with torch.no_grad():
        seen = torch.cat([features(stored, x)[0] for x in reference])
    variance = torch.tensor(numpy.var(seen.numpy(), axis=0))
    w = stored.head.weight
    q = settings["region"] / 2 * ((w[None] - w[:, None]) ** 2 * variance).sum(-1).detach()
    opt = adam(named.values())
    out, kept = [], []
    for x in batches:
        a = net(x)
        p = a.softmax(1)
        A = torch.logsumexp(a[:, None, :] - a[:, :, None] + q, 2)
        entropy, instability = (p * A).sum(1), (p * (A + a.log_softmax(1))).sum(1)
        losses = entropy + settings["instability"] * instability
        if settings["entropy_share"]:
            bound = settings["entropy_share"] * math.log(a.shape[1])
            keep = entropy < bound
            losses = (torch.exp(bound - entropy.detach()) * losses)[keep]
        kept.append(len(losses))
        if len(losses):
            opt.zero_grad()
            losses.mean().backward()
            opt.step()
        state = {"widening/pairs": q}
        out.append({"logits": a, "params": {k: v.clone() for k, v in named.items()}, "state": state})
    print(name, kept)
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


base = {"region": 1.2, "instability": 0.5, "entropy_share": 1.0}
cases = [
    run("selected", base),
    run("all_rows", base | {"entropy_share": 0.0, "instability": 2.0}),
    run("group_norms", base | {"region": 0.3}, "group"),
]
source = "transcription of the bounds after arXiv:2505.20704"
write("tta/recap", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
