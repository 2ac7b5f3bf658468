"""A tiny wide residual network in f64 from torch layers (torch 2.8.0): a transcription of Zagoruyko and Komodakis (2016). Seed 0.

Depth 10, widening 1, a stem of 2, 3 classes, images of [5, 1, 8, 8]; modules are named as in the PyTorch version of the benchmarks.
A block normalises, applies ReLU and filters, twice; where its width changes, the shortcut filters what the first ReLU gives.
`golden/models/wide_resnet_tiny.safetensors` holds the weights under `net/`, `x`, and the logits by stored statistics (`logits.stored`)
and by those of the batch (`logits.batch`). eps is 1e-5.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from golden import header, write
from tiny_resnet import use_batch_statistics
from torch import nn


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        if i != o:
            self.convShortcut = nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x):
        a = F.relu(self.bn1(x))
        b = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return b + (self.convShortcut(a) if hasattr(self, "convShortcut") else x)


class Stage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class Net(nn.Module):
    def __init__(self, stem=2, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(1, stem, 3, 1, 1, bias=False)
        self.block1 = Stage(Block(stem, stem, 1))
        self.block2, self.block3 = Stage(Block(stem, 2 * stem, 2)), Stage(Block(2 * stem, 4 * stem, 2))
        self.bn1, self.fc = nn.BatchNorm2d(4 * stem), nn.Linear(4 * stem, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


rng = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
net = Net().double().eval()
with torch.no_grad():
    for name, t in net.state_dict().items():
        if "num_batches" in name:
            continue
        if "running_var" in name:
            t.copy_(0.5 + draw(*t.shape).abs())
        elif t.dim() > 1:
            t.copy_(draw(*t.shape) * (2 / t[0].numel()) ** 0.5)
        else:
            t.copy_(0.3 * draw(*t.shape) + ("bn" in name and name.endswith("weight")))
tensors = {f"net/{k}": v.clone() for k, v in net.state_dict().items() if "num_batches" not in k} | {"x": draw(5, 1, 8, 8)}
cases = []
for statistics in ("stored", "batch"):
    if statistics == "batch":
        use_batch_statistics(net)
    with torch.no_grad():
        tensors[f"logits.{statistics}"] = net(tensors["x"])
    cases.append({"name": statistics, "config": {"statistics": statistics}, "weights": "net/", "inputs": ["x"], "expected": [f"logits.{statistics}"]})
write("models/wide_resnet_tiny", header(__file__, "torch", 0, {"f64": 1e-10, "f32": 1e-5}), cases, tensors)
