"""SAR, a transcription of the authors' script (mr-eggplant/SAR, sar.py and sam.py at 20f6e24) in f64. Seed 2.

For each batch: the mean entropy of rows below E0 = share ln K and its gradient; parameters moved along it by `radius`; entropies
there, of the rows kept before that are still below E0; its gradient, applied by the optimiser to the parameters before the move;
the running mean of that loss, 0.9 and 0.1; below `recovery` everything goes back to the start, the mean included (theirs keeps
it). A batch without a sure row changes nothing (theirs steps out of its momentum). E0 is larger than theirs, for three classes. Their own
class, run beside this, gave the same numbers to 1e-14 in the cases without a recovery.
"""

import copy
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from tta_stream import batches, case, model, sgd


def run(name, settings, kind="batch"):
    net, named = model(kind)
    optimiser, made = sgd(0.02)
    opt = made(named.values())
    start = copy.deepcopy((net.state_dict(), opt.state_dict()))
    entropy = lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(1)
    mean, out, log = None, [], []
    for x in batches:
        logits = net(x)
        e0 = settings["entropy_share"] * math.log(logits.shape[1])
        h = entropy(logits)
        keep = h < e0
        kept, recovered = 0, False
        if keep.any():
            grads = torch.autograd.grad(h[keep].mean(), list(named.values()))
            norm = torch.stack([g.norm() for g in grads]).norm()
            old = [p.detach().clone() for p in named.values()]
            with torch.no_grad():
                for p, g in zip(named.values(), grads):
                    p += settings["radius"] * g / (norm + 1e-12)
            h = entropy(net(x))
            keep = keep & (h < e0)
            kept = keep.sum().item()
            opt.zero_grad()
            if kept:
                loss = h[keep].mean()
                loss.backward()
            with torch.no_grad():
                for p, o in zip(named.values(), old):
                    p.copy_(o)
            if kept:
                opt.step()
                mean = loss.item() if mean is None else 0.9 * mean + 0.1 * loss.item()
                if mean < settings["recovery"]:
                    net.load_state_dict(start[0])
                    opt.load_state_dict(copy.deepcopy(start[1]))
                    mean, recovered = None, True
        log.append((kept, recovered))
        out.append({"logits": logits, "params": {k: p.detach().clone() for k, p in named.items()}})
    print(name, log)
    return case(name, settings, {"train": "norm_tuning", "optimiser": optimiser}, out, kind)


base = {"entropy_share": 0.85, "radius": 0.05, "recovery": 0.0}
cases = [
    run("batch_norms", base),
    run("group_norms", base | {"entropy_share": 0.95}, "group"),
    run("recovery", base | {"recovery": 0.86, "radius": 0.2}),
]
source = "transcription of mr-eggplant/SAR (sar.py, sam.py)"
write("tta/sar", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
