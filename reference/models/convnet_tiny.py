"""A tiny plain convolutional network in f64 from torch operations (torch 2.8.0), with batch, group and layer norm. Seed 0.

Two blocks of convolution, norm and ReLU: width 4, kernel 3, then the maximum over 2 x 2; width 8, kernel 5, stride 2. The mean over all
pixels, a linear head to 3 classes. Layer norm is written out: moments over channels, height and width of each image, a scale and a shift
for each channel. `golden/models/convnet_tiny.safetensors` holds the weights under `batch/`, `group/` (2 groups) and `layer/`, `x`
[5, 1, 8, 8] and the logits: `batch/logits` by stored statistics, `batch/logits.batch` by those of the batch, and those of the others.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write

EPS = 1e-5
rng = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)


def weights(norm):
    w, inputs = {}, 1
    for i, (width, kernel) in enumerate(((4, 3), (8, 5))):
        w[f"blocks.{i}.conv.weight"] = draw(width, inputs, kernel, kernel) * (2 / (inputs * kernel * kernel)) ** 0.5
        w[f"blocks.{i}.norm.weight"], w[f"blocks.{i}.norm.bias"] = 1 + 0.3 * draw(width), 0.3 * draw(width)
        if norm == "batch":
            w[f"blocks.{i}.norm.running_mean"], w[f"blocks.{i}.norm.running_var"] = 0.3 * draw(width), 0.5 + draw(width).abs()
        inputs = width
    return w | {"head.weight": draw(3, 8), "head.bias": draw(3)}


def forward(norm, w, x, own=False):
    for i, (kernel, stride, pool) in enumerate(((3, 1, 2), (5, 2, 1))):
        at = lambda part: w[f"blocks.{i}.{part}"]
        x = F.conv2d(x, at("conv.weight"), None, stride, kernel // 2)
        scale, shift = at("norm.weight"), at("norm.bias")
        if norm == "batch":
            x = F.batch_norm(x, None if own else at("norm.running_mean"), None if own else at("norm.running_var"), scale, shift, own, 0.0, EPS)
        elif norm == "group":
            x = F.group_norm(x, 2, scale, shift, EPS)
        else:
            mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
            x = (x - mean) / (var + EPS).sqrt() * scale[:, None, None] + shift[:, None, None]
        x = torch.relu(x)
        if pool > 1:
            x = F.max_pool2d(x, pool)
    return x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


x = draw(5, 1, 8, 8)
tensors, cases = {"x": x}, []
for norm, name, own in (("batch", "batch/logits", False), ("batch", "batch/logits.batch", True), ("group", "group/logits", False), ("layer", "layer/logits", False)):
    if not own:
        w = weights(norm)
        tensors |= {f"{norm}/{k}": v for k, v in w.items()}
    tensors[name] = forward(norm, w, x, own)
    config = {"norm": norm, "statistics": "batch" if own else "stored"}
    cases.append({"name": name, "config": config, "weights": f"{norm}/", "inputs": ["x"], "expected": [name]})
write("models/convnet_tiny", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases, tensors)
