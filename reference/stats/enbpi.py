"""EnbPI's widths: a transcription of the authors' `compute_PIs_Ensemble_online` (hamrel-cxu/SPCI-code, SPCI_class.py). Seed 17.

Levels are exact, not rounded up to whole per cents, and a quantile is the smallest residual that reaches its level (numpy's inverted_cdf).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import series, stream


def narrowest(alpha, bins, quantile):
    betas = [alpha / 2] if bins == 1 else np.linspace(0, alpha, bins)
    ranges = [(quantile(beta), quantile(1 - alpha + beta)) for beta in betas]
    return ranges[int(np.argmin([high - low for low, high in ranges]))]


if __name__ == "__main__":
    cases = []
    for alpha, window, bins in [(0.1, 50, 5), (0.07, 80, 9), (0.2, 30, 1)]:
        past, truths = series(17, 90), series(18, 40)
        residuals, pairs = list(past), []
        for r in truths:
            last = residuals[-window:]
            of = lambda level: np.quantile(last, min(max(level - 1e-12, 0), 1), method="inverted_cdf")
            pairs.append(narrowest(alpha, bins, of))
            residuals.append(r)
        cases.append(stream(f"bins_{bins}", {"window": window, "bins": bins}, past, truths, alpha, pairs))
    source = "a transcription of hamrel-cxu/SPCI-code (SPCI_class.py) with numpy's quantiles"
    commit = "d598dd32099402bc1b6d636f471a155001c0e54e"
    write("stats/enbpi", header(__file__, source, 17, {"f64": 1e-12}, commit=commit), cases)
