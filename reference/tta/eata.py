"""EATA and ETA, a transcription of the authors' script (mr-eggplant/EATA, eata.py and main.py at f739b36) in f64. Seed 2.

For each batch: forward with the batch's own statistics; rows of entropy below E0 = share ln K, then those whose cosine with the
running mean prediction is below the margin; entropies times exp(E0 - H), a constant, averaged over the kept rows; the Fisher
penalty; one optimiser step if a row was kept; the mean prediction 0.9 m + 0.1 mean of the kept. The Fisher weights are the mean
over the reference batches of the squared gradient of the batch's mean cross-entropy with its own labels. E0 and margins are larger
than the authors', so that on three classes both filters leave some rows. Not in their script: `squares` "row" squares the
gradients of each row's loss, `share` "batch" divides by all rows, group norms are tuned as well. On the cases `penalty` and `eta`
their own functions, run beside these, gave the same numbers to 1e-14.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from tta_stream import ADAM, adam, batches, case, full, model, reference


def fisher_of(net, named, squares):
    sums, count = {k: torch.zeros_like(p) for k, p in named.items()}, 0
    for x in reference:
        logits = net(x)
        losses = F.cross_entropy(logits, logits.argmax(1), reduction="none")
        for loss in [losses.mean()] if squares == "batch" else losses:
            grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            for k, g in zip(named, grads):
                sums[k] += g**2
            count += 1
    return {k: s / count for k, s in sums.items()}


def run(name, settings, kind="batch"):
    net, named = model(kind)
    opt = adam(named.values())
    start = {k: p.detach().clone() for k, p in named.items()}
    fisher = fisher_of(net, named, settings["squares"]) if settings["fisher"] else {}
    mean, out, counts = None, [], []
    for x in batches:
        logits = net(x)
        p = logits.softmax(1)
        entropy = -(p * logits.log_softmax(1)).sum(1)
        e0 = settings["entropy_share"] * math.log(logits.shape[1])
        keep = entropy < e0
        sure = keep.sum().item()
        if mean is not None:
            keep = keep & (F.cosine_similarity(mean[None], p, dim=1).abs() < settings["similarity"])
        counts.append((sure, keep.sum().item()))
        if keep.any():
            losses = (entropy * torch.exp(e0 - entropy.detach()))[keep]
            loss = losses.sum() / (keep.sum() if settings["share"] == "kept" else len(x))
            for k, f in fisher.items():
                loss = loss + settings["fisher"] * (f * (named[k] - start[k]) ** 2).sum()
            opt.zero_grad()
            loss.backward()
            opt.step()
            kept = p.detach()[keep].mean(0)
            mean = kept if mean is None else 0.9 * mean + 0.1 * kept
        state = {f"fisher/{full(k)}": f for k, f in fisher.items()}
        if mean is not None:
            state["mean/probabilities"] = mean
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}, "state": state})
    print(name, counts)
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


base = {"entropy_share": 0.9, "similarity": 0.97, "fisher": 0.0, "squares": "batch", "share": "kept"}
cases = [
    run("eta", base),
    run("penalty", base | {"fisher": 50.0}),
    run("penalty_by_row", base | {"fisher": 50.0, "squares": "row"}),
    run("share_of_batch", base | {"share": "batch"}),
    run("strict", base | {"similarity": 0.4, "entropy_share": 0.4}),
    run("group_norms", base | {"fisher": 50.0}, "group"),
]
source = "transcription of mr-eggplant/EATA (eata.py, main.py)"
write("tta/eata", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
