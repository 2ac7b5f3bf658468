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


def skada_shown(adapter, source, labels, target, queries):
    """How an adapter of skada shows the rows of both domains, and further rows as those of the target and as those of the source."""
    rows = np.concatenate([source, target])
    y = np.concatenate([labels, np.full(len(target), -1)])
    domain = np.concatenate([np.full(len(source), 1), np.full(len(target), -2)])
    shown = adapter.fit_transform(rows, y, sample_domain=domain)
    return {
        "source": shown[: len(source)],
        "target": shown[len(source) :],
        "queries": adapter.transform(queries, sample_domain=np.full(len(queries), -2)),
        "source_queries": adapter.transform(queries, sample_domain=np.full(len(queries), 1), allow_source=True),
    }


def shown(source, target, queries, of_source, of_target):
    """The same by two functions."""
    return {
        "source": of_source(source),
        "target": of_target(target),
        "queries": of_target(queries),
        "source_queries": of_source(queries),
    }


def map_case(name, settings, source, labels, target, queries, expected):
    made = case(name, settings, source, labels, target, expected)
    made["inputs"]["queries"] = tensor(queries)
    return made


def answers(seed, rows=80, targets=60, miscalibrated=0.0):
    """Probabilities of three classes on both domains under label shift, with the labels of the source."""
    rng = np.random.default_rng(seed)
    means = np.array([[0, 0], [1.5, 0], [0, 1.5]])

    def probabilities(x):
        logits = -0.5 * ((x[:, None] - means[None]) ** 2).sum(-1)
        logits = logits * (1 + miscalibrated) + miscalibrated * np.array([0.3, 0, -0.3])
        p = np.exp(logits - logits.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    labels = rng.permutation(np.arange(rows) % 3)
    hidden = rng.choice(3, size=targets, p=[0.1, 0.3, 0.6])
    source = means[labels] + rng.normal(size=(rows, 2))
    target = means[hidden] + rng.normal(size=(targets, 2))
    return probabilities(source), labels, probabilities(target)


def moments(h_source, labels, h_target):
    """The table of moments by class, the means on the target, the shares, and the covariance of the weights as a function."""
    one = np.eye(h_source.shape[1])[labels]
    a, b = h_source.T @ one / len(labels), h_target.mean(0)

    def covariance(weights):
        middle = np.cov((h_source * weights[labels][:, None]).T, bias=True) / len(labels)
        middle = middle + np.cov(h_target.T, bias=True) / len(h_target)
        return np.linalg.inv(a) @ middle @ np.linalg.inv(a).T

    return a, b, one.mean(0), covariance
