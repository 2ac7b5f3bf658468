"""What the scripts below `stats` for conformal prediction share: tables, and cases in the form that the test reads.

Infinite ends of intervals are written as null.
"""

import numpy as np
from golden import tensor

ALPHAS = [0.05, 0.1, 0.25, 0.4]


def rng(seed):
    return np.random.default_rng(seed)


def number(x):
    return float(x) if np.isfinite(x) else None


def ends(pairs):
    """Lower and upper ends of intervals."""
    return {"lower": [number(low) for low, _ in pairs], "upper": [number(high) for _, high in pairs]}


def intervals(name, settings, inputs, new, found, by=None):
    """`found` maps alpha to the pairs of ends of all new rows."""
    inputs = {k: tensor(v) if getattr(v, "ndim", 1) == 2 else list(map(float, v)) for k, v in inputs.items()}
    expected = [{"alpha": alpha, **ends(pairs)} for alpha, pairs in found.items()]
    return {"name": name, "config": {"settings": settings, "by": by}, "inputs": inputs | {"new": tensor(new)}, "expected": expected}


def sets(name, settings, held, truths, new, found, by=None):
    """`found` maps alpha to a matrix that says which classes each new row may have."""
    found = [{"alpha": a, "sets": [np.flatnonzero(row).tolist() for row in rows]} for a, rows in found.items()]
    inputs = {"held": tensor(held), "truths": [int(t) for t in truths], "new": tensor(new)}
    return {"name": name, "config": {"settings": settings, "by": by}, "inputs": inputs, "expected": found}


def stream(name, settings, past, truths, alpha, pairs):
    """`pairs` are the ends of the range of residuals at each step."""
    inputs = {"past": list(map(float, past)), "truths": list(map(float, truths))}
    return {"name": name, "config": {"settings": settings, "alpha": alpha}, "inputs": inputs, "expected": [ends(pairs)]}


def reach(values, weights, mass):
    """The smallest value up to which the weights reach `mass`."""
    order = np.argsort(values, kind="stable")
    at = np.searchsorted(np.cumsum(np.asarray(weights)[order]), mass * (1 - 1e-12))
    return np.asarray(values)[order][at] if at < len(order) else np.inf


def conformal(scores, alpha):
    return reach(scores, np.ones(len(scores)), (1 - alpha) * (len(scores) + 1))


def series(seed, count):
    """Errors of which each is 0.7 of the one before and new noise, in numbers that single precision holds."""
    noise, out, last = rng(seed).normal(size=count), [], 0.0
    for e in noise:
        last = 0.7 * last + e
        out.append(float(np.float32(last)))
    return np.array(out)


def probabilities(seed, rows, classes):
    p = rng(seed).dirichlet(np.ones(classes), size=rows)
    return p, np.array([rng(seed + 1 + i).choice(classes, p=row) for i, row in enumerate(p)])
