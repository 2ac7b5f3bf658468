"""ROID, a transcription of mariodoebler/test-time-adaptation (methods/roid.py at 8b2ed63, the authors') in f64. Seed 2.

For each batch: diversity and certainty weights against the running mean prediction; the soft likelihood ratio of the kept rows;
symmetric cross-entropy between a view of them and the rows themselves; one optimiser step on scales and shifts of the norms;
parameters a little back to the start; the running mean. The prior multiplies probabilities, as in the paper (theirs: logits). Views
are those of `tta_views.py` with acclimate's draws. Their own class without its prior, run beside this on those draws, gave the same
numbers to 1e-14 in all cases.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from tta_stream import ADAM, adam, batches, case, model
from tta_views import view, views

DEFAULTS = {"momentum": 0.9, "temperature": 1 / 3, "consistency": 1.0, "prior": 1.0, "low": -3.0, "high": 4.0, "seed": 5}


def symmetric(x, q):
    return -0.5 * (q.softmax(1) * x.log_softmax(1)).sum(1) - 0.5 * (x.softmax(1) * q.log_softmax(1)).sum(1)


def run(name, settings, kind="batch"):
    settings = DEFAULTS | settings
    net, named = model(kind)
    start = {k: v.detach().clone() for k, v in named.items()}
    opt = adam(named.values())
    mean = torch.full((3,), 1 / 3, dtype=torch.float64)
    out, counts = [], []
    for step, x in enumerate(batches):
        z = net(x)
        p = z.softmax(1)
        with torch.no_grad():
            scale = lambda v: (v - v.min()) / (v.max() - v.min())
            diverse = scale(1 - F.cosine_similarity(mean[None], p, dim=1))
            sure = scale((p * z.log_softmax(1)).sum(1))
            keep = diverse >= diverse.mean()
            weights = torch.exp(diverse * sure / settings["temperature"])[keep]
            mean = 0.9 * mean + 0.1 * p.mean(0)
        counts.append(keep.sum().item())
        q = p.clamp(max=0.99)
        slr = -(q * torch.log(q / (1 - q) + 1e-5)).sum(1)
        loss = (slr[keep] * weights).sum() / len(x)
        if settings["consistency"]:
            other = net(view(x[keep], views(settings["seed"], step), settings["low"], settings["high"]))
            loss = loss + settings["consistency"] * (symmetric(other, z[keep]) * weights).sum() / len(x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for k, v in named.items():
                v.copy_(settings["momentum"] * v + (1 - settings["momentum"]) * start[k])
            prior = p.mean(0)
            smooth = max(1 / z.shape[0], 1 / z.shape[1]) / prior.max()
            prior = (prior + smooth) / (1 + smooth * z.shape[1])
            said = z.log_softmax(1) + settings["prior"] * prior.log()
        if settings["prior"] == 0:
            said = z
        state = {"mean/probabilities": mean}
        out.append({"logits": said, "params": {k: v.clone() for k, v in named.items()}, "state": state})
    print(name, counts)
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


cases = [
    run("consistency", {}),
    run("without_view_or_prior", {"consistency": 0.0, "prior": 0.0}),
    run("group_norms", {}, "group"),
]
source = "transcription of mariodoebler/test-time-adaptation (methods/roid.py)"
write("tta/roid", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
