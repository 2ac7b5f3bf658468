"""Weights of rows by skada: 640 of each domain, one width, the adapters as they come."""

import numpy as np
import skada
from points import THREADS, points  # noqa: F401
from skada import KLIEPReweightAdapter, KMMReweightAdapter

WHO = f"skada {skada.__version__}"
ROWS = 640


def weigh(make):
    rows = np.concatenate([points(1, ROWS), points(ROWS + 1, ROWS) ** 2])
    y = np.concatenate([np.arange(ROWS) % 2, np.full(ROWS, -1)])
    domain = np.concatenate([np.full(ROWS, 1), np.full(ROWS, -2)])

    def run():
        adapter = make().fit(rows, y, sample_domain=domain)
        return adapter.compute_weights(rows, y, sample_domain=domain)

    return run


def kmm(_):
    return weigh(lambda: KMMReweightAdapter(gamma=1.0))


def kliep(_):
    return weigh(lambda: KLIEPReweightAdapter(gamma=1.0, random_state=5))
