"""ACI: a transcription of the paper, with the conformal rank of the last scores. Seed 12.

MAPIE 1.6 is no reference: it rounds the level of each step to two digits.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import conformal, series, stream


def threshold(scores, alpha):
    return -np.inf if alpha >= 1 else np.inf if alpha <= 0 else conformal(scores, alpha)


def run(name, alpha, gamma, window):
    past, truths = series(12, 60), series(13, 80) * np.where(np.arange(80) < 40, 1, 3)
    scores, level, pairs = list(np.abs(past)), alpha, []
    for r in truths:
        q = threshold(scores[-window:], level)
        pairs.append((-q, q))
        level += gamma * (alpha - (abs(r) > q))
        scores.append(abs(r))
    return stream(name, {"gamma": gamma, "window": window}, past, truths, alpha, pairs)


if __name__ == "__main__":
    cases = [run("slow", 0.1, 0.005, 1000), run("fast", 0.1, 0.2, 50), run("fine", 0.02, 0.03, 1000)]
    source = "a transcription of Gibbs and Candès 2021"
    write("stats/aci", header(__file__, source, 12, {"f64": 1e-12}), cases)
