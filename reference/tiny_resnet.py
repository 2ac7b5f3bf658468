"""The tiny residual network that `models/resnet_tiny.py` and `tta/tent.py` share."""

import torch
from torch import nn


class Unit(nn.Module):
    """A convolution without bias and its norm, as `conv` and `norm`."""

    def __init__(self, norm, i, o, size, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, size, stride, size // 2, bias=False)
        self.norm = norm(o)

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    def __init__(self, norm, i, o, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), norm(o)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), norm(o)
        self.shortcut = Unit(norm, i, o, 1, stride) if stride != 1 or i != o else None

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + (self.shortcut(x) if self.shortcut else x))


class Net(nn.Module):
    def __init__(self, norm, classes=3):
        super().__init__()
        self.stem = Unit(norm, 1, 8, 3)
        self.stages = nn.ModuleList([nn.ModuleList([Block(norm, 8, 8, 1)]), nn.ModuleList([Block(norm, 8, 16, 2)])])
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((2, 3)))


def build(kind, seed=0):
    """The net in f64 and inference mode with random weights and, for batch norm, random running statistics."""
    norm = nn.BatchNorm2d if kind == "batch" else lambda width: nn.GroupNorm(4, width)
    model = Net(norm).double().eval()
    rng = torch.Generator().manual_seed(seed)
    draw = lambda t: torch.randn(t.shape, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if "num_batches" in name:
                continue
            if "running_var" in name:
                t.copy_(0.5 + draw(t).abs())
            elif t.dim() > 1:
                t.copy_(draw(t) * (2 / t[0].numel()) ** 0.5)
            else:
                t.copy_(0.3 * draw(t) + ("norm" in name and name.endswith("weight")))
    return model


def use_batch_statistics(model):
    """Normalise by the current batch in every mode, as Tent's authors do."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats, m.running_mean, m.running_var = False, None, None
    return model
