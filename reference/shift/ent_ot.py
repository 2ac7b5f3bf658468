"""EntOT by skada's adapter around POT's Sinkhorn iterations in logarithms, run until the marginals agree. Seed 29."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from shift_transport import mapped, three_domains, transported
from skada import EntropicOTMappingAdapter

cases = []
for metric, reg, norm in [
    ("sqeuclidean", 1.0, "median"),
    ("sqeuclidean", 0.1, "median"),
    ("cosine", 0.5, "median"),
    ("cityblock", 0.1, "median"),
    ("sqeuclidean", 0.5, None),
]:
    source, labels, target, unseen = three_domains(29)
    adapter = EntropicOTMappingAdapter(reg_e=reg, metric=metric, norm=norm, max_iter=200_000, tol=1e-14)
    expected = mapped(adapter, source, labels, target, unseen)
    settings = {"metric": metric, "reg": reg, "norm": norm or "none", "tolerance": 1e-13, "steps": 200_000}
    cases.append(transported(f"{metric}_{reg}_{norm}", settings, source, labels, target, expected, unseen))
write("shift/ent_ot", header(__file__, "skada", 29, {"f64": 1e-9}), cases)
