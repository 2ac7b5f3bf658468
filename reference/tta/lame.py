"""LAME by the authors' functions (fiveai/LAME, src/adaptation/lame.py) in f64. Seed 2.

The network keeps its stored statistics. Expected are the logarithms of the assignments. Rows are distinct, so that the nearest of each
row's distances, which the authors leave out, is the row itself.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import batches, case, features, model

torch.set_default_dtype(torch.float64)
COMMIT = "d2e5f63090bc1c8129bf7cbd781029a5955e1a67"
NAMES = ["AffinityMatrix", "kNN_affinity", "rbf_affinity", "linear_affinity", "laplacian_optimization", "entropy_energy"]
lame = take("fiveai/LAME", COMMIT, "src/adaptation/lame.py", NAMES, logger=logging.getLogger("lame"))
affinities = {"knn": lame.kNN_affinity, "rbf": lame.rbf_affinity, "linear": lame.linear_affinity}


def run(name, kind="batch", affinity="knn", neighbours=5, weight=1.0, symmetric=False, averaged=False, steps=100):
    net, _ = model(kind, train="none", statistics="stored")
    of = affinities[affinity]
    of = of() if affinity == "linear" else of(knn=neighbours, sigma=None)
    out = []
    for x in batches:
        phi, logits = features(net, x)
        kernel = of(torch.nn.functional.normalize(phi, p=2, dim=-1))
        kernel = (kernel + kernel.t()) / 2 if symmetric else kernel
        kernel = kernel / kernel.sum(1, keepdim=True) if averaged else kernel
        z = lame.laplacian_optimization(-torch.log(logits.softmax(1) + 1e-10), kernel, weight, steps)
        out.append({"logits": z.log()})
    settings = {"affinity": affinity, "neighbours": neighbours, "weight": weight, "symmetric": symmetric}
    return case(name, settings | {"averaged": averaged, "steps": steps}, {}, out, kind)


cases = [
    run("knn"),
    run("knn_symmetric", neighbours=2, symmetric=True),
    run("rbf", affinity="rbf", neighbours=3),
    run("linear_averaged", affinity="linear", averaged=True, weight=2.0),
    run("three_steps", weight=0.5, steps=3),
    run("group", kind="group", affinity="rbf"),
]
source = "fiveai/LAME (src/adaptation/lame.py)"
write("tta/lame", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-3}, commit=COMMIT), cases)
