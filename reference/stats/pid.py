"""Quantile tracking with an integrator: a transcription of the authors' `quantile_integrator_log_scorecaster`
(aangelopoulos/conformal-time-series, core/methods.py) one step ahead. Seed 14.

Their integrator sums misses without the newest one: cases with `compat` follow them, the others take it in. The scorecaster `average` is
a running mean put in their place for it, beginning with the first score.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import series, stream


def run(name, scores, alpha, lr, c, k, window, relative, compat=True, smoothing=None):
    """The thresholds of all steps."""
    q, qs, misses, mean = 0.0, [0.0], [], 0.0
    for t, s in enumerate(scores):
        last = scores[max(t - window, 0) : t]
        rate = lr * (last.max() - last.min()) if relative and t > 0 else lr
        misses.append(float(s > qs[t]))
        n = t if compat else t + 1
        angle = (sum(misses[:n]) - n * alpha) * np.log(n + 1) / (c * (n + 1))
        tan = np.inf if angle >= np.pi / 2 else -np.inf if angle <= -np.pi / 2 else np.tan(angle)
        q += rate * (misses[-1] - alpha)
        mean = s if t == 0 else smoothing * s + (1 - smoothing) * mean if smoothing else 0.0
        qs.append(q + (k * tan if k else 0.0) + (mean if smoothing else 0.0))
    return qs[:-1]


def case(name, alpha, lr, c, k, window, relative, compat=True, smoothing=None, tracker=False):
    truths = series(14, 90) * np.where(np.arange(90) < 40, 1, 3)
    qs = run(name, np.abs(truths), alpha, lr, c, k, window, relative, compat, smoothing)
    settings = {"lr": lr, "window": window, "relative": relative}
    if not tracker:
        settings |= {"saturation": c, "integral": k, "compat": compat}
    if smoothing:
        settings |= {"scorecaster": "average", "smoothing": smoothing}
    return stream(name, settings, [], truths, alpha, [(-q, q) for q in qs])


if __name__ == "__main__":
    cases = [
        case("compat", 0.1, 0.3, 2.0, 1.5, 20, False),
        case("compat_tight", 0.2, 0.1, 0.3, 0.5, 20, False),
        case("newest", 0.1, 0.3, 2.0, 1.5, 20, False, compat=False),
        case("average", 0.1, 0.2, 5.0, 1.0, 20, False, compat=False, smoothing=0.3),
    ]
    source = "a transcription of aangelopoulos/conformal-time-series (core/methods.py)"
    commit = "a1e9765a7538f3c1f55e7891319ca38ddde36fb3"
    write("stats/pid", header(__file__, source, 14, {"f64": 1e-11}, commit=commit), cases)
