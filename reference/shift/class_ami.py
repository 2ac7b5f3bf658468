"""ClassAMI: scikit-learn's k-means from the means of the predicted classes, and its adjusted mutual information. Seed 19."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from shift_scores import OFFSET, TARGET_HELD, fitted, probabilities, score_case
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

cases = []
for name, offset in [
    ("plain", OFFSET),
    ("two_classes", OFFSET - np.array([0, 0, 1000.0])),
    ("moved", OFFSET + np.array([3.0, -1.5, 0])),
    ("moved_far", OFFSET + np.array([0, 2.5, 0])),
]:
    model = fitted(offset=offset)
    found = probabilities(model, TARGET_HELD).argmax(1)
    shown = model[0].transform(TARGET_HELD, sample_domain=np.full(len(TARGET_HELD), -2))
    means = np.stack([shown[found == c].mean(0) for c in np.unique(found)])
    clusters = KMeans(len(means), init=means, n_init=1, tol=0).fit(shown).labels_
    cases.append(score_case(name, {}, adjusted_mutual_info_score(found, clusters), offset))
print([case["expected"] for case in cases])
write("shift/class_ami", header(__file__, "scikit-learn", 19, {"f64": 1e-10}), cases)
