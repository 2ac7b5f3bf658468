"""A tiny EfficientNet-Lite in f64 from torch layers (torch 2.8.0). Seed 0.

The net is `bench/vision.py`'s with a stem of 4, stages (kernel, stride, expansion, width, blocks) (3, 1, 1, 4, 1) and (5, 2, 2, 6, 2), 12
features and 3 classes. `golden/models/efficientnet_tiny.safetensors` holds its weights under `net/`, images `even` [5, 1, 8, 8] and `odd`
[4, 1, 11, 9], and the logits of both: `….running` by stored statistics, `….batch` by those of the batch. eps is 1e-3.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "bench")]
import torch
from golden import header, write
from vision import EfficientNetLite0

rng = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
stages = ((3, 1, 1, 4, 1), (5, 2, 2, 6, 2))
net = EfficientNetLite0(classes=3, stages=stages, stem=4, head=12, channels=1).double().eval()
with torch.no_grad():
    for name, t in net.state_dict().items():
        if "num_batches" in name:
            continue
        if "running_var" in name:
            t.copy_(0.5 + draw(t.shape).abs())
        elif t.dim() > 1:
            t.copy_(draw(t.shape) * (2 / t[0].numel()) ** 0.5)
        else:
            t.copy_(0.3 * draw(t.shape) + ("bn" in name and name.endswith("weight")))
tensors = {f"net/{k}": v.clone() for k, v in net.state_dict().items() if "num_batches" not in k}
tensors |= {"even": draw(5, 1, 8, 8), "odd": draw(4, 1, 11, 9)}
cases = []
for statistics in ("running", "batch"):
    if statistics == "batch":
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.track_running_stats, m.running_mean, m.running_var = False, None, None
    for x in ("even", "odd"):
        with torch.no_grad():
            tensors[f"{x}.{statistics}"] = net(tensors[x])
        cases.append({"name": f"{x} {statistics}", "config": {"statistics": statistics}, "inputs": [x], "expected": [f"{x}.{statistics}"]})
write("models/efficientnet_tiny", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases, tensors)
