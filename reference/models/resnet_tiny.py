"""A tiny residual network in f64 from torch layers (torch 2.8.0), with batch norm and with group norm. Seed 0.

The net (see `tiny_resnet.py`) takes [n, 1, 8, 8] to [n, 3]. `golden/models/resnet_tiny.safetensors` holds the weights under
`batch_norm/` and `group_norm/`, `x` [5, 1, 8, 8], and the logits [5, 3]: `batch_norm/logits.running` (stored statistics),
`batch_norm/logits.batch` (statistics of this batch, variance divided by n) and `group_norm/logits` (4 groups). eps is 1e-5.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from tiny_resnet import build, use_batch_statistics

rng = torch.Generator().manual_seed(1)
x = torch.randn(5, 1, 8, 8, generator=rng, dtype=torch.float64)
batch, group = build("batch"), build("group")
tensors = {"x": x}
for prefix, model in (("batch_norm", batch), ("group_norm", group)):
    tensors |= {f"{prefix}/{k}": v.clone() for k, v in model.state_dict().items() if "num_batches" not in k}
names = list(tensors)
with torch.no_grad():
    tensors["batch_norm/logits.running"] = batch(x)
    tensors["group_norm/logits"] = group(x)
    tensors["batch_norm/logits.batch"] = use_batch_statistics(batch)(x)
common = {"stem": 8, "widths": [8, 16], "blocks": [1, 1], "strides": [1, 2], "classes": 3, "eps": 1e-5}
cases = [
    {"name": "running", "config": common | {"norm": "batch"}, "weights": "batch_norm/", "inputs": ["x"], "expected": ["batch_norm/logits.running"]},
    {"name": "batch", "config": common | {"norm": "batch"}, "weights": "batch_norm/", "inputs": ["x"], "expected": ["batch_norm/logits.batch"]},
    {"name": "group", "config": common | {"norm": "group", "groups": 4}, "weights": "group_norm/", "inputs": ["x"], "expected": ["group_norm/logits"]},
]
write("models/resnet_tiny", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases, tensors)
