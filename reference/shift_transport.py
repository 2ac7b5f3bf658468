"""What the scripts of the methods by optimal transport share: their domains and skada's adapters on rows that were seen and others."""

import numpy as np
import ot
from golden import tensor
from shift_domains import domains


def three_domains(seed, **sizes):
    """Two domains, and rows of the source that no fit sees."""
    source, labels, target = domains(seed, **sizes)
    return source, labels, target, domains(seed + 100, sources=7, features=source.shape[1])[0]


def mapped(adapter, source, labels, target, unseen):
    """What an adapter of skada makes of the source, and of rows of it that the fit has not seen."""
    rows = np.concatenate([source, target])
    y = np.concatenate([labels, np.full(len(target), -1)])
    domain = np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])
    adapter.fit(rows, y, sample_domain=domain)
    show = lambda x: adapter.transform(x, sample_domain=np.full(len(x), 1), allow_source=True)
    return {"lesson": show(source), "unseen": show(unseen)}


def transported(name, settings, source, labels, target, expected, unseen=None):
    inputs = {"source": tensor(source), "labels": labels.tolist(), "target": tensor(target)}
    if unseen is not None:
        inputs["unseen"] = tensor(unseen)
    return {"name": name, "config": settings, "inputs": inputs, "expected": {k: tensor(v) for k, v in expected.items()}}


def settled(source, target, metric):
    """The exact coupling whose cost has a millionth of the squared distances added, brought to one mean, as ties are broken."""
    cost, squares = ot.dist(source, target, metric=metric), ot.dist(source, target)
    masses = ot.unif(len(source)), ot.unif(len(target))
    plan = ot.emd(*masses, cost + 1e-6 * squares * cost.mean() / squares.mean())
    least = ot.emd2(*masses, cost)
    assert least <= (plan * cost).sum() <= least * (1 + 1e-5)
    return plan
