"""OTLabelProp by skada's adapter with enough steps for its solvers. Seed 33.

With the 200 steps of its default an exact coupling is not reached in the largest case: see the check at the end.
Under cityblock many couplings cost the same, so POT gets costs that tell them apart.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import warnings

import numpy as np
import ot
from golden import header, write
from shift_domains import domains
from shift_transport import settled, transported
from skada import OTLabelPropAdapter


def propagated(source, y, target, missing, **settings):
    adapter = OTLabelPropAdapter(**settings)
    rows = np.concatenate([source, target])
    domain = np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])
    adapter.fit_transform(rows, np.concatenate([y, np.full(len(target), missing)]), sample_domain=domain)
    return adapter


cases = []
for metric, reg in [("sqeuclidean", None), ("cosine", None), ("sqeuclidean", 1.0), ("cosine", 0.1), ("cityblock", 0.5)]:
    source, labels, target = domains(33, sources=40, targets=23)
    adapter = propagated(source, labels, target, -1, metric=metric, reg=reg, n_iter_max=200_000)
    settings = {"metric": metric} | ({} if reg is None else {"reg": reg, "tolerance": 1e-9, "steps": 200_000})
    expected = {"lesson": target, "labels": adapter.yht_.astype(float)}
    cases.append(transported(f"{metric}_{reg}", settings, source, labels, target, expected))
    # POT's own class gives the shares.
    solver = ot.da.EMDTransport(metric=metric) if reg is None else None
    if solver is not None:
        solver.fit(Xs=source, Xt=target)
        shares = solver.transform_labels(ys=labels)
        assert (shares.argmax(1) == adapter.yht_).all()
        row, of = np.nonzero(shares > 1e-6 * shares.max())
        expected = {"lesson": target[row], "labels": of.astype(float), "weights": shares[row, of]}
        cases.append(transported(f"{metric}_soft", settings | {"soft": True}, source, labels, target, expected))

source, labels, target = domains(33, sources=40, targets=23)
shares = settled(source, target, "cityblock").T @ np.eye(2)[labels]
expected = {"lesson": target, "labels": shares.argmax(1).astype(float)}
cases.append(transported("cityblock_None", {"metric": "cityblock"}, source, labels, target, expected))

source, labels, target = domains(34, sources=150, targets=120)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    short = propagated(source, labels, target, -1)
assert any("numItermax" in str(warning.message) for warning in caught)
adapter = propagated(source, labels, target, -1, n_iter_max=1_000_000)
assert short.G_.sum() < 0.9 and (short.yht_ != adapter.yht_).mean() > 0.3, "the first 200 steps are enough after all"
expected = {"lesson": target, "labels": adapter.yht_.astype(float)}
cases.append(transported("large", {}, source, labels, target, expected))
write("shift/ot_label_prop", header(__file__, "skada", 33, {"f64": 1e-10}), cases)
