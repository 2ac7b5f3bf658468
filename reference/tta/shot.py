"""SHOT on single batches, a transcription of the authors' script (tim-learn/SHOT, object/image_target.py at f7d555a) in f64. Seed 2.

For each batch: forward with the batch's own statistics; mean entropy less the entropy of the mean prediction; cross-entropy with
labels by `obtain_label` over the batch, cosine distances, no class left out for its count but those nobody is predicted as; one
optimiser step. Logarithms are exact, theirs have 1e-5 inside. What is trained here is scales and shifts of the norms.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import torch.nn.functional as F
from golden import header, write
from tta_stream import ADAM, adam, batches, case, features, model


def labels(fea, p):
    fea = np.concatenate([fea, np.ones((len(fea), 1))], 1)
    fea = fea / np.linalg.norm(fea, axis=1, keepdims=True)
    predict, aff = p.argmax(1), p
    for _ in range(2):
        centres = aff.T @ fea / (1e-8 + aff.sum(0)[:, None])
        known = np.where(np.eye(p.shape[1])[predict].sum(0) > 0)[0]
        near = centres[known] / np.linalg.norm(centres[known], axis=1, keepdims=True)
        predict = known[(1 - fea @ near.T).argmin(1)]
        aff = np.eye(p.shape[1])[predict]
    return torch.from_numpy(predict)


def run(name, settings, kind="batch"):
    net, named = model(kind)
    opt = adam(named.values())
    out, differ = [], 0
    for x in batches:
        f, z = features(net, x)
        p = z.softmax(1)
        told = labels(f.detach().numpy(), p.detach().numpy())
        differ += (told != z.argmax(1)).sum().item()
        mean = p.mean(0)
        loss = -(p * z.log_softmax(1)).sum(1).mean() + settings["diversity"] * (mean * mean.log()).sum()
        loss = loss + settings["pseudo_label"] * F.cross_entropy(z, told)
        opt.zero_grad()
        loss.backward()
        opt.step()
        out.append({"logits": z, "params": {k: v.clone() for k, v in named.items()}})
    print(name, differ)
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


cases = [
    run("labels", {"diversity": 1.0, "pseudo_label": 0.3}),
    run("information", {"diversity": 1.0, "pseudo_label": 0.0}),
    run("group_norms", {"diversity": 0.5, "pseudo_label": 1.0}, "group"),
]
source = "transcription of tim-learn/SHOT (object/image_target.py)"
write("tta/shot", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
