"""Robust mean teacher, a transcription of mariodoebler/test-time-adaptation (methods/rmt.py at 8b2ed63, the authors') in f64. Seed 2.

Prototypes are class means of features of the reference batches, each under its own statistics. For each batch: student on the
batch and on a view of it, teacher on the batch; half the symmetric cross-entropy of each with the teacher's logits; the contrast
of the nearest prototype and both features, projected and normalised, `contrastive_loss` with mode "all" and a mask of equal rows;
cross-entropy on a reference batch, in turn; one optimiser step on all parameters and the projection; the teacher follows. The
prediction is the sum of student and teacher. No warm-up. The view and the projection's start are acclimate's draws. On the cases with a
projection their own class, run beside this on those draws, gave the same numbers.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from streams import stream, uniform
from tta_stream import CLASSES, batches, case, features, full, model, reference, sgd
from tta_views import view, views

DEFAULTS = {"momentum": 0.9, "contrast": 1.0, "replay": 1.0, "temperature": 0.1, "projection": 6}
DEFAULTS |= {"low": -3.0, "high": 4.0, "seed": 5}
LABELS = torch.tensor(CLASSES)


def symmetric(x, q):
    return -0.5 * (q.softmax(1) * x.log_softmax(1)).sum(1) - 0.5 * (x.softmax(1) * q.log_softmax(1)).sum(1)


def contrastive(vectors, rows, temperature):
    z = F.normalize(vectors, dim=1)
    logits = z @ z.T / temperature
    logits = logits - logits.max(1, keepdim=True)[0].detach()
    others = 1 - torch.eye(len(z), dtype=z.dtype)
    positive = torch.eye(rows, dtype=z.dtype).repeat(3, 3) * others
    log_prob = logits - torch.log((torch.exp(logits) * others).sum(1, keepdim=True))
    return -((positive * log_prob).sum(1) / positive.sum(1)).mean()


def run(name, settings, kind="batch"):
    settings = DEFAULTS | settings
    (net, named), (teacher, slow) = model(kind, "all"), model(kind, "all")
    with torch.no_grad():
        seen = torch.cat([features(net, x)[0] for x in reference])
    labels = LABELS.repeat(len(reference))
    prototypes = torch.stack([seen[labels == c].mean(0) for c in range(3)])
    projection, width = [], prototypes.shape[1]
    words = stream(settings["seed"], "projection", 0)
    for out, inner in [(settings["projection"], width), (settings["projection"], settings["projection"])]:
        if out:
            for shape in [(out, inner), (out,)]:
                drawn = [(2 * uniform(words) - 1) / inner**0.5 for _ in range(math.prod(shape))]
                projection.append(torch.tensor(drawn, dtype=torch.float64).reshape(shape).requires_grad_(True))
    optimiser, made = sgd(0.005)
    opt = made(list(named.values()) + projection)
    steps = []
    for step, x in enumerate(batches):
        f, s = features(net, x)
        f2, s2 = features(net, view(x, views(settings["seed"], step), settings["low"], settings["high"]))
        with torch.no_grad():
            q = teacher(x)
            nearest = F.cosine_similarity(f[:, None], prototypes[None], dim=-1).argmax(1)
        loss = (0.5 * symmetric(s, q) + 0.5 * symmetric(s2, q)).mean()
        v = torch.cat([prototypes[nearest], f, f2])
        if projection:
            w1, b1, w2, b2 = projection
            v = F.linear(F.relu(F.linear(v, w1, b1)), w2, b2)
        loss = loss + settings["contrast"] * contrastive(v, len(x), settings["temperature"])
        if settings["replay"]:
            loss = loss + settings["replay"] * F.cross_entropy(net(reference[step % len(reference)]), LABELS)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for k, t in slow.items():
                t.copy_(settings["momentum"] * t + (1 - settings["momentum"]) * named[k])
        state = {f"teacher/{full(k)}": t.clone() for k, t in slow.items() if "stages.1.0.norm1" in k or "head" in k}
        state["features/prototypes"] = prototypes
        steps.append({"logits": s + q, "state": state})
        if name == "replay" and step == 9:
            steps[-1]["params"] = {k: p.clone() for k, p in named.items()}
    return case(name, settings, {"train": "full", "optimiser": optimiser}, steps, kind)


cases = [
    run("replay", {}),
    run("source_free", {"replay": 0.0, "contrast": 0.5}),
    run("without_projection", {"projection": 0}, "group"),
]
source = "transcription of mariodoebler/test-time-adaptation (methods/rmt.py)"
write("tta/rmt", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
