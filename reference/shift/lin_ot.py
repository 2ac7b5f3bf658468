"""LinOT by skada's adapter around POT's map between normal distributions. Seed 32."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from shift_transport import mapped, three_domains, transported
from skada import LinearOTMappingAdapter

cases = []
for reg, bias, features in [(1e-8, True, 2), (0.1, True, 3), (10.0, True, 3), (1e-6, False, 3), (1.0, False, 2)]:
    source, labels, target, unseen = three_domains(32, features=features)
    expected = mapped(LinearOTMappingAdapter(reg=reg, bias=bias), source, labels, target, unseen)
    settings = {"reg": reg, "bias": bias}
    cases.append(transported(f"{reg}_{bias}_{features}", settings, source, labels, target, expected, unseen))
write("shift/lin_ot", header(__file__, "skada", 32, {"f64": 1e-11}), cases)
