"""A step of Tent on a ResNet-18: 64 images of 32×32 pixels, random weights."""

import torch
from vision import ResNet18, Tent

WHO = f"PyTorch {torch.__version__.split('+')[0]}"
THREADS = torch.get_num_threads()


def resnet18_tent(_):
    torch.manual_seed(5)
    tent, images = Tent(ResNet18()), torch.randn(64, 3, 32, 32)
    return lambda: tent.step(images)
