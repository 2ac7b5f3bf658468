"""SimRFs by the authors' functions (isaac-reid/simplex_random_features, utils.py) in f64. Seed 127.

Lengths and rotations are those their code draws, recorded on the way; one block. Expected are their features of training and test rows.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from authors import take
from golden import header, tensor, write
from scipy.stats import ortho_group

COMMIT = "f45b7f7dc4c7ba514646f34553b9ad1a8fbb4f09"
NAMES = {"orthogonal": "get_orth_features", "simplex": "get_simp_features", "simplex_plus": "get_simp_plus_features"}
rng = np.random.default_rng(127)
np.random.seed(127)
drawn = {}


def rotation(d):
    drawn["rotation"] = ortho_group.rvs(d, random_state=np.random.RandomState(d))
    return drawn["rotation"]


class Numpy:
    """NumPy whose chi-square draws are remembered."""

    random = SimpleNamespace()

    def __getattr__(self, name):
        return getattr(np, name)


def chisquare(d, size):
    drawn["squares"] = np.random.chisquare(d, size=size)
    return drawn["squares"]


Numpy.random.chisquare = chisquare
authors = take(
    "isaac-reid/simplex_random_features",
    COMMIT,
    "utils.py",
    list(NAMES.values()),
    np=Numpy(),
    ortho_group=SimpleNamespace(rvs=rotation),
)


def case(coupling, d, scale):
    train, test = 0.5 * rng.standard_normal((4, d)), 0.5 * rng.standard_normal((3, d))
    one, two = getattr(authors, NAMES[coupling])(1, scale, (train, None, None, None, test, None))
    return {
        "name": f"{coupling} {d}",
        "config": {"coupling": coupling, "features": d, "scale": scale},
        "inputs": {
            "lengths": tensor(np.sqrt(drawn["squares"])),
            "rotation": tensor(drawn["rotation"]),
            "x": tensor(np.concatenate([train, test])),
        },
        "expected": {"features": tensor(np.concatenate([one, two]))},
    }


cases = [case(coupling, d, scale) for coupling in NAMES for d, scale in [(2, 1.0), (5, 0.7)]]
source = "isaac-reid/simplex_random_features (utils.py)"
write("stats/random_features", header(__file__, source, 127, {"f64": 1e-12}, commit=COMMIT), cases)
