"""DtACI: a transcription of the authors' function `conformalAdaptStable` (isgibbs/DtACI, DtACI.R), its mean level, on conformal ranks. Seed 12.

One change: a level that is exactly beta counts as a miss, as the conformal rank at that level says.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from aci import threshold
from conformal import series, stream


def run(name, alpha, gammas, stretch, window):
    past, truths = series(12, 60), series(13, 80) * np.where(np.arange(80) < 40, 1, 3)
    k, gammas = len(gammas), np.array(gammas)
    sigma = 1 / (2 * stretch)
    eta = np.sqrt(3 / stretch * (np.log(k * stretch) + 2) / ((1 - alpha) ** 2 * alpha**3 + (1 - alpha) ** 3 * alpha**2))
    levels, probs, scores, pairs = np.full(k, alpha), np.full(k, 1 / k), list(np.abs(past)), []
    for r in truths:
        last = np.array(scores[-window:])
        q = threshold(last, (probs * levels).sum())
        pairs.append((-q, q))
        beta = ((last >= abs(r)).sum() + 1) / (len(last) + 1)
        losses = alpha * (beta - levels) - np.minimum(0, beta - levels)
        levels = levels + gammas * (alpha - (levels >= beta - 1e-15))
        bar = probs * np.exp(-eta * losses)
        probs = (1 - sigma) * bar / bar.sum() + sigma / k
        scores.append(abs(r))
    settings = {"gammas": list(map(float, gammas)), "stretch": stretch, "window": window}
    return stream(name, settings, past, truths, alpha, pairs)


cases = [
    run("eight", 0.1, [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128], 500, 1000),
    run("two", 0.05, [0.01, 0.1], 50, 70),
]
source = "a transcription of isgibbs/DtACI (DtACI.R)"
commit = "09ab1674bc579b46d0e54b3525059c0591be342f"
write("stats/dtaci", header(__file__, source, 12, {"f64": 1e-12}, commit=commit), cases)
