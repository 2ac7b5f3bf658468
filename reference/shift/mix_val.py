"""MixVal: skada's scorer on the rows in the order of their numbers, mixed in acclimate's drawn orders. Seed 19.

In the last cases all of the target is predicted to be of one class, where skada leaves out the share that has no pair (`compat`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import OFFSET, TARGET_HELD, fitted, score_case
from skada.metrics import MixValScorer
from streams import shuffled

rows = TARGET_HELD[np.lexsort(TARGET_HELD.T[::-1])]


class Order(np.random.RandomState):
    """Draws the given order."""

    def __init__(self, order):
        super().__init__(0)
        self.order = np.array(order)

    def permutation(self, n):
        assert n == len(self.order)
        return self.order


def mix_val(model, pairs, share, rounds):
    # A row of the source with a label, so that skada takes the problem for one of classes.
    x, y = np.concatenate([rows[:3], rows]), np.concatenate([[0, 1, 2], np.full(len(rows), -1)])
    domain = np.concatenate([np.full(3, 1), np.full(len(rows), -2)])
    found = []
    for this in range(rounds):
        scorer = MixValScorer(alpha=share, ice_type=pairs, random_state=Order(shuffled(len(rows), 0, "mix_val", this)))
        found.append(scorer._score(model, x, y, sample_domain=domain))
    return np.mean(found)


model = fitted()
cases = []
for pairs, share, rounds in [("both", 0.55, 1), ("intra", 0.6, 4), ("inter", 0.7, 4), ("both", 0.52, 5)]:
    settings = {"pairs": pairs, "share": share, "rounds": rounds}
    cases.append(score_case(f"{pairs}_{share}", settings, mix_val(model, pairs, share, rounds)))
one = OFFSET + np.array([0, 1000.0, 0])
collapsed = mix_val(fitted(offset=one), "both", 0.55, 1)
cases.append(score_case("one_class_compat", {"compat": True}, collapsed, one))
cases.append(score_case("one_class", {}, collapsed / 2, one))
print([case["expected"] for case in cases])
write("shift/mix_val", header(__file__, "skada", 19, {"f64": 1e-12}), cases)
