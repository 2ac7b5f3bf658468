"""Instance-aware batch norm by its authors' class (TaesikGong/NOTE, utils/iabn.py) in f64, in inference mode. Seed 2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from iabn_layers import COMMIT, PATH, REPOSITORY, converted
from tta_stream import batches, case, model


def run(name, deviations):
    net, _ = model(train="none", statistics="stored")
    net = converted(net, deviations).eval()
    with torch.no_grad():
        return case(name, {"deviations": deviations}, {}, [{"logits": net(x)} for x in batches])


cases = [run("default", 4.0), run("small", 0.5), run("instances", 0.0)]
source = f"{REPOSITORY} ({PATH})"
write("tta/iabn", header(__file__, source, 2, {"f64": 1e-11, "f32": 1e-3}, commit=COMMIT), cases)
