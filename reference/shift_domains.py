"""Two small domains that the scripts below `shift` share, and skada's adapters run on them."""

import numpy as np
from golden import tensor


def domains(seed, sources=30, targets=24, features=2, shift=0.8):
    """Source rows, their classes, target rows: Gaussian clouds, the target moved and wider."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(sources, features))
    target = rng.normal(size=(targets, features)) * 1.1 + shift
    labels = (source[:, 0] + 0.3 * rng.normal(size=sources) > 0).astype(int)
    return source, labels, target


def skada_weights(adapter, source, labels, target):
    """What an adapter of skada gives the source rows where these come first."""
    rows = np.concatenate([source, target])
    y = np.concatenate([labels, np.full(len(target), -1)])
    domain = np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])
    adapter.fit(rows, y, sample_domain=domain)
    return adapter.compute_weights(rows, y, sample_domain=domain)[: len(source)]


def case(name, settings, source, labels, target, expected):
    inputs = {"source": tensor(source), "labels": labels.tolist(), "target": tensor(target)}
    return {"name": name, "config": settings, "inputs": inputs, "expected": {k: tensor(v) for k, v in expected.items()}}
