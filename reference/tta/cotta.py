"""CoTTA, a transcription of mariodoebler/test-time-adaptation (methods/cotta.py at 8b2ed63, after qinenergy/cotta) in f64. Seed 2.

For each batch: the student's logits; the mean over the batch of the unadapted network's largest probability; if it is below the
threshold the mean of the teacher's logits over views, else the teacher's logits; cross-entropy with them (`reverse` 0.5 is the
loss for ImageNet); one optimiser step on all parameters; the teacher follows; every number of the student is set back with a
probability, once (theirs: once for every module that holds it). The prediction is the target. All networks take the batch's own
statistics. Draws are acclimate's: `restore` for each number of each tensor in turn, `view` in `tta_views.py`. Not in their
script: the threshold by row, group norms. On the cases `teacher` and `views` their own class, run beside this, gave the same numbers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from streams import stream, uniform
from tta_stream import batches, case, full, model, sgd
from tta_views import view, views

DEFAULTS = {"momentum": 0.9, "restore": 0.0, "confidence": 0.0, "unsure": "batch", "augmentations": 3, "reverse": 0.0}
DEFAULTS |= {"low": -3.0, "high": 4.0, "seed": 5}


def run(name, settings, kind="batch"):
    settings = DEFAULTS | settings
    (net, named), (teacher, slow), (anchor, start) = model(kind, "all"), model(kind, "all"), model(kind, "all")
    optimiser, made = sgd(0.01)
    opt = made(named.values())
    out, taken = [], []
    for step, x in enumerate(batches):
        logits = net(x)
        with torch.no_grad():
            sure = anchor(x).softmax(1).max(1)[0]
            words = views(settings["seed"], step)
            seen = lambda: teacher(view(x, words, settings["low"], settings["high"]))
            mean = lambda: torch.stack([seen() for _ in range(settings["augmentations"])]).mean(0)
            if settings["unsure"] == "row":
                unsure = sure < settings["confidence"]
                target = torch.where(unsure[:, None], mean(), teacher(x))
            else:
                unsure = sure.mean() < settings["confidence"]
                target = mean() if unsure else teacher(x)
            taken.append(unsure.sum().item())
        p, q, r = logits.softmax(1), target.softmax(1), settings["reverse"]
        loss = -(1 - r) * (q * logits.log_softmax(1)).sum(1) - r * (p * target.log_softmax(1)).sum(1)
        opt.zero_grad()
        loss.mean().backward()
        opt.step()
        with torch.no_grad():
            for k, t in slow.items():
                t.copy_(settings["momentum"] * t + (1 - settings["momentum"]) * named[k])
            if settings["restore"]:
                words = stream(settings["seed"], "restore", step)
                for k, p in named.items():
                    draws = [uniform(words) < settings["restore"] for _ in range(p.numel())]
                    p.copy_(torch.where(torch.tensor(draws).reshape(p.shape), start[k], p))
        state = {f"teacher/{full(k)}": t.clone() for k, t in slow.items() if "stages.1.0.norm1" in k or "head" in k}
        out.append({"logits": target, "state": state})
        if name == "teacher" and step == 9:
            out[-1]["params"] = {k: p.clone() for k, p in named.items()}
    print(name, taken)
    return case(name, settings, {"train": "full", "optimiser": optimiser}, out, kind)


cases = [
    run("teacher", {}),
    run("reverse_and_restore", {"reverse": 0.5, "restore": 0.2}),
    run("views", {"confidence": 0.56}),
    run("views_by_row", {"confidence": 0.55, "unsure": "row"}, "group"),
]
source = "transcription of mariodoebler/test-time-adaptation (methods/cotta.py)"
write("tta/cotta", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
