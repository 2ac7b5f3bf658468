"""DeYO, a transcription of mariodoebler/test-time-adaptation (methods/deyo.py at 8b2ed63, after Jhyun17/DeYO) in f64. Seed 2.

For each batch: rows of entropy below a share of ln K; those images cut into patches in random order, each its own, seen by the
network with their own statistics; rows whose probability for their class falls by more than `drop`; their entropies times
exp(E0 - H) + exp(fall), averaged; one optimiser step if a row is left. The order of patches is acclimate's: sorted draws. Both
thresholds are milder than theirs, so that rows of these images are left.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from streams import stream, uniform
from tta_stream import ADAM, adam, batches, case, model

DEFAULTS = {"entropy_share": 0.9, "drop": 0.0, "weight_share": 0.4, "grid": 4, "seed": 5}


def shuffled(x, grid, words):
    n, c, h, w = x.shape
    cut = x.reshape(n, c, grid, h // grid, grid, w // grid).permute(0, 2, 4, 1, 3, 5)
    cut = cut.reshape(n, grid * grid, c, h // grid, w // grid)
    for row in range(n):
        keys = [uniform(words) for _ in range(grid * grid)]
        cut[row] = cut[row, sorted(range(grid * grid), key=lambda k: keys[k])].clone()
    cut = cut.reshape(n, grid, grid, c, h // grid, w // grid).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(n, c, h, w)


def run(name, settings, kind="batch"):
    settings = DEFAULTS | settings
    net, named = model(kind)
    opt = adam(named.values())
    out, counts = [], []
    for step, x in enumerate(batches):
        z = net(x)
        p = z.softmax(1)
        h = -(p * z.log_softmax(1)).sum(1)
        sure = torch.where(h < settings["entropy_share"] * math.log(3))[0]
        kept = []
        if len(sure):
            with torch.no_grad():
                words = stream(settings["seed"], "patches", step)
                other = net(shuffled(x[sure], settings["grid"], words)).softmax(1)
                label = p[sure].argmax(1, keepdim=True)
                fall = (p[sure].gather(1, label) - other.gather(1, label))[:, 0]
            kept = torch.where(fall > settings["drop"])[0]
        counts.append((len(sure), len(kept)))
        if len(kept):
            rest, fall = h[sure][kept], fall[kept]
            weight = torch.exp(settings["weight_share"] * math.log(3) - rest.detach()) + torch.exp(fall)
            opt.zero_grad()
            (rest * weight).mean().backward()
            opt.step()
        out.append({"logits": z, "params": {k: v.detach().clone() for k, v in named.items()}})
    print(name, counts)
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


cases = [run("batch_norms", {}), run("group_norms", {"grid": 2, "drop": 0.05, "entropy_share": 0.95}, "group")]
source = "transcription of mariodoebler/test-time-adaptation (methods/deyo.py)"
write("tta/deyo", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
