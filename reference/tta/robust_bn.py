"""RoTTA's robust batch norm as a benchmark has it (mariodoebler/test-time-adaptation, classification/methods/rotta.py) in f64. Seed 2.

In training mode, in which it moves its averages, at every batch. `state` holds them.
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import batches, case, model

REPOSITORY, PATH = "mariodoebler/test-time-adaptation", "classification/methods/rotta.py"
COMMIT = "8b2ed63255d906b6b0afaefc6ae630b9ec4bdaa1"
RobustBN2d = take(REPOSITORY, COMMIT, PATH, ["MomentumBN", "RobustBN2d"], deepcopy=copy.deepcopy).RobustBN2d


def run(name, momentum):
    net, _ = model(train="none", statistics="stored")
    norms = {}
    for path, norm in list(net.named_modules()):
        if isinstance(norm, torch.nn.BatchNorm2d):
            parent, _, own = path.rpartition(".")
            norms[path] = RobustBN2d(norm, momentum).train()
            setattr(net.get_submodule(parent), own, norms[path])
    out = []
    with torch.no_grad():
        for x in batches:
            logits, state = net(x), {}
            for path, norm in norms.items():
                state[f"averages/{path}.mean"] = norm.source_mean.clone()
                state[f"averages/{path}.variance"] = norm.source_var.clone()
            out.append({"logits": logits, "state": state})
    return case(name, {"momentum": momentum}, {}, out)


cases = [run("default", 0.05), run("half", 0.5)]
source = f"{REPOSITORY} ({PATH})"
write("tta/robust_bn", header(__file__, source, 2, {"f64": 1e-12, "f32": 1e-4}, commit=COMMIT), cases)
