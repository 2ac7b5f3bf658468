"""GALA, a transcription of the paper (arXiv:2404.03784, equations 1 to 7) in f64. Seed 2.

There is no code of the authors. Layers are the modules that hold parameters. For each batch: the loss and its gradient, the
proposed step u of plain gradient descent, times min(1, k / warm_up) at the k-th step of a window; at a window's first step the
anchor is renewed and all layers move, otherwise the layer with the largest cosine between u and u plus the displacement from the
anchor moves if that exceeds the threshold, or with `layers` "all" every layer above it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from tta_stream import batches, case, model, sgd

DEFAULTS = {"objective": "pseudo_label", "diversity": 0.0, "threshold": 0.75, "window": 4, "warm_up": 3, "layers": "best"}


def run(name, settings, kind="batch", lr=0.05, train="all"):
    settings = DEFAULTS | settings
    net, named = model(kind, train)
    layers = {}
    for path in named:
        layers.setdefault(path.rpartition(".")[0], []).append(path)
    out, log = [], []
    for step, x in enumerate(batches):
        logits = net(x)
        p = logits.softmax(1)
        entropy = -(p * logits.log_softmax(1)).sum(1).mean()
        loss = entropy if settings["objective"] == "entropy" else F.cross_entropy(logits, logits.argmax(1))
        mean = p.mean(0)
        loss = loss + settings["diversity"] * (mean * mean.log()).sum()
        grads = dict(zip(named, torch.autograd.grad(loss, list(named.values()))))
        at = step % settings["window"]
        if at == 0:
            anchor = {k: v.detach().clone() for k, v in named.items()}
        share = min(1, (at + 1) / settings["warm_up"])
        cosines, steps = {}, {}
        for layer, paths in layers.items():
            u = torch.cat([-lr * share * grads[k].flatten() for k in paths])
            t = torch.cat([(named[k].detach() - anchor[k]).flatten() for k in paths])
            steps[layer] = [-lr * share * grads[k] for k in paths]
            cosines[layer] = 1.0 if at == 0 else F.cosine_similarity(u, u + t, dim=0).item()
        best = max(cosines, key=cosines.get)
        moves = [l for l in layers if at == 0 or (cosines[l] > settings["threshold"] and settings["layers"] == "all")]
        if at and settings["layers"] == "best" and cosines[best] > settings["threshold"]:
            moves = [best]
        log.append(len(moves))
        with torch.no_grad():
            for l in moves:
                for k, u in zip(layers[l], steps[l]):
                    named[k] += u
        out.append({"logits": logits})
        if train == "norms" or (name == "best" and step == 9):
            out[-1]["params"] = {k: v.detach().clone() for k, v in named.items()}
    print(name, log)
    host = {"train": "full" if train == "all" else "norm_tuning", "optimiser": sgd(lr, 0.0)[0]}
    return case(name, settings, host, out, kind)


cases = [
    run("best", {}),
    run("all", {"layers": "all", "threshold": 0.8, "warm_up": 1}),
    run("norms", {"objective": "entropy", "diversity": 1.0}, train="norms"),
    run("none_agrees", {"threshold": 1.0}, "group", train="norms"),
]
source = "transcription of arXiv:2404.03784"
write("tta/gala", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
