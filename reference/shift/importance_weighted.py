"""Importance-weighted validation: skada's scorer (`compat`), and densities of the rows that the fit has seen by scikit-learn. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import HELD, HELD_LABELS, SOURCE, TARGET, fitted, score_case, skada_score, source_probabilities
from skada.metrics import ImportanceWeightedScorer
from sklearn.neighbors import KernelDensity

model = fitted()
right = source_probabilities(model, HELD).argmax(1) == HELD_LABELS
assert 0.5 < right.mean() < 1


def density(rows, width):
    return KernelDensity(bandwidth=width, rtol=0, atol=0).fit(rows).score_samples(HELD)


cases = [score_case("compat", {"compat": True}, skada_score(ImportanceWeightedScorer(), model))]
exact = ImportanceWeightedScorer(KernelDensity(bandwidth=0.4))
cases.append(score_case("narrow_compat", {"bandwidth": 0.4, "compat": True}, skada_score(exact, model)))
for width in [1.0, 0.4]:
    weights = np.exp(density(TARGET, width) - density(SOURCE, width))
    cases.append(score_case(f"width_{width}", {"bandwidth": width}, (weights * right).sum() / weights.sum()))
write("shift/importance_weighted", header(__file__, "skada", 19, {"f64": 1e-8}), cases)
