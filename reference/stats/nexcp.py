"""NexCP: a transcription of the paper by sums over all scores. Seed 15."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from golden import header, write
from conformal import series, stream

cases = []
for alpha, decay, window in [(0.1, 0.99, 1000), (0.2, 0.9, 40)]:
    past, truths = series(15, 60), series(16, 40)
    scores, pairs = list(np.abs(past)), []
    for r in truths:
        last = np.array(scores[-window:])
        w = decay ** np.arange(len(last), 0, -1)
        q = min([s for s in last if w[last <= s].sum() >= (1 - alpha) * (w.sum() + 1)], default=np.inf)
        pairs.append((-q, q))
        scores.append(abs(r))
    cases.append(stream(f"decay_{decay}", {"decay": decay, "window": window}, past, truths, alpha, pairs))
source = "a transcription of Barber, Candès, Ramdas and Tibshirani 2023"
write("stats/nexcp", header(__file__, source, 15, {"f64": 1e-12}), cases)
