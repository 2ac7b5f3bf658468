"""MapOT by skada's adapter around POT's exact solver, with the costs divided by their median as in its benchmark. Seed 28.

Under cityblock many couplings cost the same and skada's depends on the order of rows, so POT gets costs that tell them apart.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import ot
from golden import header, write
from shift_transport import mapped, settled, three_domains, transported
from skada import OTMappingAdapter

cases = []
for metric in ["sqeuclidean", "cosine", "cityblock"]:
    for sizes in [{}, {"sources": 12, "targets": 20, "features": 3}]:
        source, labels, target, unseen = three_domains(28, **sizes)
        if metric == "cityblock":
            moved = len(source) * settled(source, target, metric) @ target
            nearest = ot.dist(unseen, source).argmin(1)
            expected = {"lesson": moved, "unseen": unseen + (moved - source)[nearest]}
        else:
            expected = mapped(OTMappingAdapter(metric=metric, norm="median"), source, labels, target, unseen)
        name = f"{metric}_{len(source)}_{len(target)}"
        cases.append(transported(name, {"metric": metric}, source, labels, target, expected, unseen))
write("shift/map_ot", header(__file__, "skada", 28, {"f64": 1e-10}), cases)
