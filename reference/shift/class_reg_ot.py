"""ClassRegOT by skada's adapter around POT's majorisation, its inner problems run until the marginals agree. Seed 30.

The median is taken out of the costs by POT's own class, since skada's adapter has no such setting.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import ot
from golden import header, write
from shift_transport import mapped, three_domains, transported
from skada import ClassRegularizerOTMappingAdapter

long = {"max_inner_iter": 200_000, "tol": 1e-14}
cases = []
for metric, reg, reg_cl, steps in [
    ("sqeuclidean", 1.0, 0.1, 10),
    ("sqeuclidean", 0.5, 0.5, 10),
    ("cosine", 0.1, 0.1, 10),
    ("cityblock", 1.0, 1.0, 3),
]:
    source, labels, target, unseen = three_domains(30)
    adapter = ClassRegularizerOTMappingAdapter(reg_e=reg, reg_cl=reg_cl, metric=metric, max_iter=steps, **long)
    expected = mapped(adapter, source, labels, target, unseen)
    settings = {"metric": metric, "reg": reg, "reg_cl": reg_cl, "steps": steps}
    settings |= {"tolerance": 1e-13, "inner_steps": 200_000}
    cases.append(transported(f"{metric}_{reg}_{reg_cl}", settings, source, labels, target, expected, unseen))

source, labels, target, unseen = three_domains(31, sources=20, targets=26)
transport = ot.da.SinkhornLpl1Transport(reg_e=0.2, reg_cl=0.3, norm="median", **long)
transport.fit(Xs=source, ys=labels, Xt=target)
expected = {"lesson": transport.transform(Xs=source), "unseen": transport.transform(Xs=unseen)}
settings = {"norm": "median", "reg": 0.2, "reg_cl": 0.3, "tolerance": 1e-13, "inner_steps": 200_000}
cases.append(transported("median", settings, source, labels, target, expected, unseen))
write("shift/class_reg_ot", header(__file__, "skada", 30, {"f64": 1e-8}), cases)
