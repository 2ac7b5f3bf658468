"""UnMix-TNS by its authors' module (devavratTomar/unmixtns, tta_experiments/unmixtns.py) in f64. Seed 2.

The first components come from acclimate's random streams, see `unmix_layers.py`, whose normal numbers are
from tables with roundings of their own; seed 0 unless a case says. `state` holds the components
where they are few.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from tta_stream import batches, case, model
from unmix_layers import COMMIT, PATH, REPOSITORY, kept, unmixed


def run(name, **settings):
    net, _ = model(train="none", statistics="stored")
    net = unmixed(net, **settings)
    out = []
    with torch.no_grad():
        for x in batches:
            out.append({"logits": net(x)})
            # Of sixteen components the answers must do.
            if settings.get("components", 16) < 16:
                out[-1]["state"] = kept(net)
    return case(name, settings, {}, out)


cases = [
    run("default"),
    run("four_fast", components=4, momentum=1.0, full_batch=16, seed=7),
    run("alone", components=1, momentum=0.5),
]
source = f"{REPOSITORY} ({PATH})"
write("tta/unmix_tns", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-3}, commit=COMMIT), cases)
