"""Prediction-time batch normalization: torch's batch norm without stored statistics, in f64. Seed 2."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write
from tta_stream import batches, case, model

net, _ = model(train="none")
steps = [{"logits": net(x)} for x in batches]
cases = [case("batch", {}, {}, steps)]
write("tta/batch_statistics", header(__file__, "torch", 2, {"f64": 1e-12, "f32": 1e-4}), cases)
