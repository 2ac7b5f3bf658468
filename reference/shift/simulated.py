"""skada's simulated pairs for two seeds and every kind of shift: first rows, sums, and the outer splits of skada-bench.

Needs skada 0.4.0 on the path (pip install --no-deps).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from golden import header, write
from skada.datasets import make_shifted_datasets
from skada.model_selection import StratifiedDomainShuffleSplit

KINDS = {"covariate": "covariate_shift", "label": "target_shift", "conditional": "concept_drift", "subspace": "subspace"}
NOISE = {"covariate": 0.6, "label": 0.8, "conditional": 0.8, "subspace": 0.4}


def case(kind, seed):
    n = 300 if kind == "subspace" else 100
    x, y, domain = make_shifted_datasets(n, n, KINDS[kind], noise=NOISE[kind], center_cov_shift=(-0.4, 3), random_state=seed)
    x = x.astype(np.float32).astype(float)
    source, target = x[domain > 0], x[domain < 0]
    cv = StratifiedDomainShuffleSplit(n_splits=2, test_size=0.2, random_state=0)
    (train, test) = list(cv.split(x, y, domain))[1]
    first = int((domain > 0).sum())
    assert (domain[:first] > 0).all()
    place = np.arange(1, len(target) + 1)
    return {
        "kind": kind,
        "seed": seed,
        "rows": [len(source), len(target)],
        "source_head": source[:5].flatten().tolist(),
        "target_head": target[:5].flatten().tolist(),
        "source_sum": source.sum(0).tolist(),
        "target_weighted": (place @ target).tolist(),
        "target_labels_weighted": int(place @ y[domain < 0]),
        "second_split": {
            "source_head": [int(i) for i in train[train < first][:8]],
            "target_head": [int(i) - first for i in train[train >= first][:8]],
            "test_head": [int(i) - first for i in test[test >= first][:8]],
            "sizes": [int((train < first).sum()), int((train >= first).sum()), int((test >= first).sum())],
        },
    }


if __name__ == "__main__":
    cases = [case(kind, seed) for kind in KINDS for seed in (0, 7)]
    # Rows are single precision: a last place may differ where sums were added in another order.
    write("shift/simulated", header(__file__, "skada", None, 1e-6), cases)
