"""Image networks with random weights, read and adapted by Tent: a ResNet-18 with 64 images of 32×32 pixels, EfficientNet-Lite0 with 8 of 224×224."""

import torch
from vision import EfficientNetLite0, ResNet18, Tent

WHO = f"PyTorch {torch.__version__.split('+')[0]}"
THREADS = torch.get_num_threads()


RESNET18, EFFICIENTNET = (ResNet18, 64, 3, 32, 32), (EfficientNetLite0, 8, 3, 224, 224)


def tent(model, *images):
    torch.manual_seed(5)
    adapting, images = Tent(model()), torch.randn(images)
    return lambda: adapting.step(images)


def reading(model, *images):
    torch.manual_seed(5)
    model, images = model().eval(), torch.randn(images)

    def run():
        with torch.no_grad():
            return model(images)

    return run


resnet18_forward, resnet18_tent = (lambda _: reading(*RESNET18)), (lambda _: tent(*RESNET18))
efficientnet_forward, efficientnet_tent = (lambda _: reading(*EFFICIENTNET)), (lambda _: tent(*EFFICIENTNET))
