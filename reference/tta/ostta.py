"""OSTTA, a transcription of gaozhengqing/UniEnt (cifar/ostta.py at af7faa8, criterion "ent") in f64. Seed 2.

For each batch: the predictions of the unadapted network, its class and that class's probability; forward with the adapted network,
both with the batch's own statistics; the loss of the rows whose probability for that class is not lower, averaged, less alpha
times the entropy of the mean prediction; one optimiser step if a row is left. The probability of a row that nothing has moved is
equal on both sides. Theirs is a re-implementation by another group. Cross-entropy with the arg-max in place of entropy is not in
it, nor are group norms. With entropy their own class, run beside this, gave the same numbers to 1e-14.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from tta_stream import batches, case, model, sgd


def run(name, settings, kind="batch"):
    (net, named), (start, _) = model(kind), model(kind, "none")
    optimiser, made = sgd(0.05)
    opt = made(named.values())
    out, counts = [], []
    for x in batches:
        before, label = start(x).softmax(1).max(1)
        logits = net(x)
        p = logits.softmax(1)
        keep = p.gather(1, label[:, None])[:, 0] >= before
        counts.append(keep.sum().item())
        if keep.any():
            losses = -(p * logits.log_softmax(1)).sum(1)
            if settings["objective"] == "pseudo_label":
                losses = F.cross_entropy(logits, logits.argmax(1), reduction="none")
            mean = p.mean(0)
            opt.zero_grad()
            (losses[keep].mean() + settings["diversity"] * (mean * mean.log()).sum()).backward()
            opt.step()
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}})
    print(name, counts)
    return case(name, settings, {"train": "norm_tuning", "optimiser": optimiser}, out, kind)


cases = [
    run("entropy", {"objective": "entropy", "diversity": 0.0}),
    run("diversity", {"objective": "entropy", "diversity": 0.5}),
    run("pseudo_label", {"objective": "pseudo_label", "diversity": 0.0}),
    run("group_norms", {"objective": "entropy", "diversity": 0.0}, "group"),
]
source = "transcription of gaozhengqing/UniEnt (cifar/ostta.py)"
write("tta/ostta", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
