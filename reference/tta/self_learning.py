"""Self-learning with RPL, ENT, hard and soft labels, a transcription in f64. Seed 2.

The robust loss is `gce` and the entropy `entropy` of bethgelab/robustness (robusta/selflearning/functional.py at 0ef82b1); hard
labels are torch's cross-entropy with the arg-max, soft labels torch's cross-entropy with the softmax of the logits at another
temperature, detached. For each batch: forward with the batch's own statistics, the mean loss, one optimiser step on scales and
shifts of the norms. With the robust loss and with entropy their functions, run beside these, gave the same numbers to 1e-14.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch.nn.functional as F
from golden import header, write
from tta_stream import ADAM, adam, batches, case, model


def robust(logits, q):
    p = F.softmax(logits, dim=1).gather(1, logits.argmax(1, keepdim=True))
    return ((1 - p**q) / q).mean()


def run(name, settings, loss, kind="batch"):
    net, named = model(kind)
    opt = adam(named.values())
    out = []
    for x in batches:
        logits = net(x)
        opt.zero_grad()
        loss(logits).backward()
        opt.step()
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}})
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


entropy = lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(1).mean()
cases = [
    run("robust", {"objective": "robust", "q": 0.8}, lambda z: robust(z, 0.8)),
    run("robust_group_norms", {"objective": "robust", "q": 0.3}, lambda z: robust(z, 0.3), "group"),
    run("pseudo_label", {"objective": "pseudo_label"}, lambda z: F.cross_entropy(z, z.argmax(1))),
    run("entropy", {"objective": "entropy"}, entropy),
    run(
        "soft_label",
        {"objective": "soft_label", "temperature": 0.4},
        lambda z: F.cross_entropy(z, (z.detach() / 0.4).softmax(1)),
    ),
]
source = "transcription of bethgelab/robustness (robusta/selflearning/functional.py), torch"
write("tta/self_learning", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
