"""CAFA in f64: a transcription of the paper's distances and ratio, with scikit-learn's covariances. Seed 2.

There is no code of the authors. Features of the labelled reference batches are seen under the stored statistics. Covariances are
`EmpiricalCovariance` (divided by the number of rows) plus `shrinkage` times the mean variance on the diagonal, distances solve
with torch's Cholesky factor of each. For each batch: forward with the batch's own statistics, the predicted class's distances
against the sum of the others, as the logarithm of the ratio of their sums or the mean logarithm of each row's ratio; one
optimiser step on scales and shifts of the norms. "tied" pools the rows about their class means.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from sklearn.covariance import EmpiricalCovariance
from tta_stream import ADAM, CLASSES, adam, batches, case, features, model, reference


def gaussians(kind, covariance, shrinkage):
    net, _ = model(kind, "none", "stored")
    with torch.no_grad():
        seen = torch.cat([features(net, x)[0] for x in reference])
    labels = torch.tensor(CLASSES).repeat(len(reference))
    means = torch.stack([seen[labels == c].mean(0) for c in range(3)])
    fit = lambda rows: torch.tensor(EmpiricalCovariance(assume_centered=True).fit(rows.numpy()).covariance_)
    spread = [fit(seen[labels == c] - means[c]) for c in range(3)]
    if covariance == "tied":
        spread = [fit(seen - means[labels])] * 3
    if covariance == "diagonal":
        spread = [s.diag().diag() for s in spread]
    eye = torch.eye(means.shape[1], dtype=means.dtype)
    return means, [torch.linalg.cholesky(s + shrinkage * s.trace() / len(s) * eye) for s in spread]


def run(name, settings, kind="batch"):
    net, named = model(kind)
    means, factors = gaussians(kind, settings["covariance"], settings["shrinkage"])
    opt = adam(named.values())
    out = []
    for x in batches:
        f, logits = features(net, x)
        solved = [torch.linalg.solve_triangular(L, (f - m).T, upper=False) for m, L in zip(means, factors)]
        d = torch.stack([(s**2).sum(0) for s in solved], 1).clamp_min(1e-12)
        own = torch.nn.functional.one_hot(logits.argmax(1), 3).bool()
        intra, inter = d[own], d.masked_fill(own, 0).sum(1)
        loss = torch.log(intra.mean() / inter.mean()) if settings["ratio"] == "means" else torch.log(intra / inter).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        state = {"gaussians/means": means}
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}, "state": state})
    return case(name, settings, {"train": "norm_tuning", "optimiser": ADAM}, out, kind)


base = {"covariance": "full", "shrinkage": 0.01, "ratio": "means"}
cases = [
    run("full", base),
    run("rows", base | {"ratio": "rows"}),
    run("tied", base | {"covariance": "tied"}),
    run("diagonal", base | {"covariance": "diagonal", "shrinkage": 0.1}),
    run("group_norms", base, "group"),
]
source = "transcription of arXiv:2206.00205 with scikit-learn 1.7.2's covariances"
write("tta/cafa", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
