"""MMDTarS by skada's adapter, brought to mean one. Seed 7.

skada inverts a label kernel of rank two with a ridge of 1e-10, which costs it digits; a case takes a ridge that costs none.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from shift_domains import case, domains, skada_weights
from skada import MMDTarSReweightAdapter

data = domains(7, shift=0.6)
cases = []
for gamma, reg in [(0.5, 1e-7), (2.0, 1e-7), (0.5, 1e-10)]:
    weights = skada_weights(MMDTarSReweightAdapter(gamma=gamma, reg=reg, tol=1e-12), *data)
    settings = {"gamma": gamma, "ridge": reg}
    cases.append(case(f"gamma_{gamma}_{reg}", settings, *data, {"weights": weights / weights.mean()}))
write("shift/mmd_tars", header(__file__, "skada", 7, {"f64": 1e-4}), cases)
