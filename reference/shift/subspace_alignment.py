"""Subspace alignment by skada's adapter. Seed 13. The sign of each axis of the target is free; those of the source cancel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_domains import domains, map_case, skada_shown
from skada import SubspaceAlignmentAdapter

data = domains(13, features=4)
queries = np.random.default_rng(113).normal(size=(4, 4))
cases = []
for components in [None, 1, 2]:
    settings = {} if components is None else {"components": components}
    expected = skada_shown(SubspaceAlignmentAdapter(n_components=components), *data, queries)
    cases.append(map_case(f"{components}", settings, *data, queries, expected))
write("shift/subspace_alignment", header(__file__, "skada", 13, {"f64": 1e-10}), cases)
