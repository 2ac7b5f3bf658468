"""Optimal transport by POT: 2000 points entropic, 1000 exact; squared distances over their mean, equal masses."""

import warnings

import numpy as np
import ot
from points import THREADS, points  # noqa: F401

WHO = f"POT {ot.__version__}"
warnings.filterwarnings("error", message="Sinkhorn did not converge")


def problem(rows):
    cost = ot.dist(points(1, rows), points(rows + 1, rows) ** 2)
    return np.full(rows, 1 / rows), cost / cost.mean()


def sinkhorn(_):
    mass, cost = problem(2000)
    # It ends at the norm of the differences of the marginals, which their sum is never below.
    return lambda: ot.bregman.sinkhorn_log(mass, mass, cost, 0.1, stopThr=1e-9, numItermax=10_000)


def exact(_):
    mass, cost = problem(1000)
    return lambda: ot.emd(mass, mass, cost, numItermax=10_000_000)
