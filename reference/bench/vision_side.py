"""Image networks with random weights: a step of Tent on a ResNet-18, 64 images of 32×32 pixels, and EfficientNet-Lite0, 8 of 224×224."""

import torch
from vision import EfficientNetLite0, ResNet18, Tent

WHO = f"PyTorch {torch.__version__.split('+')[0]}"
THREADS = torch.get_num_threads()


def tent(model, *images):
    torch.manual_seed(5)
    adapting, images = Tent(model()), torch.randn(images)
    return lambda: adapting.step(images)


def resnet18_tent(_):
    return tent(ResNet18, 64, 3, 32, 32)


def efficientnet_tent(_):
    return tent(EfficientNetLite0, 8, 3, 224, 224)


def efficientnet_forward(_):
    torch.manual_seed(5)
    model, images = EfficientNetLite0().eval(), torch.randn(8, 3, 224, 224)

    def run():
        with torch.no_grad():
            return model(images)

    return run
