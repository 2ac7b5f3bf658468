"""One frozen layer with one adapter: the case that all scripts in `peft/` share.

A case's inputs are the base layer's `weight` and `bias` (and for a convolution its stride and padding), the adapter's
tensors, `x` and `coefficient`; expected are `y`, the merged weight and bias, and the gradients of the adapter's tensors
and of x for loss = sum(y * coefficient). Everything is f64, drawn from the standard normal (layers: times 0.5).
"""

import copy
import warnings

import torch
from golden import tensor
from peft import get_peft_model
from torch import nn

warnings.filterwarnings("ignore")


class Host(nn.Module):
    """A model that is one layer, so that peft has something to wrap."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def linear(rng, n=6, m=5):
    return fill(rng, nn.Linear(n, m)), normal(rng, 2, 3, n)


def conv(rng, n=2, m=4):
    return fill(rng, nn.Conv2d(n, m, 3, stride=2, padding=1)), normal(rng, 2, n, 5, 5)


def fill(rng, layer):
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(0.5 * normal(rng, *p.shape))
    return layer


def wrap(layer, config):
    """The peft model around a copy of the layer, in f64."""
    return get_peft_model(Host(copy.deepcopy(layer)), config, autocast_adapter_dtype=False).double()


def evaluate(name, config, rng, layer, x, adapter, forward, merged=None, more=None):
    """Runs one case. `adapter` maps our name to the live parameter, `merged` is the layer with the adapter folded in."""
    x = x.clone().requires_grad_()
    y = forward(x)
    coefficient = normal(rng, *y.shape)
    loss = (y * coefficient).sum()
    gradients = torch.autograd.grad(loss, [*adapter.values(), x])
    inputs = {"layer": "conv2d" if isinstance(layer, nn.Conv2d) else type(layer).__name__.lower()}
    if isinstance(layer, nn.Conv2d):
        inputs |= {"stride": list(layer.stride), "padding": list(layer.padding)}
    inputs |= {k: tensor(p) for k, p in layer.named_parameters()}
    inputs |= {"adapter": {k: tensor(p) for k, p in adapter.items()}} | (more or {})
    inputs |= {"x": tensor(x), "coefficient": tensor(coefficient)}
    expected = {"y": tensor(y), "loss": loss.item()}
    if merged is not None:
        torch.testing.assert_close(merged(x), y, rtol=1e-12, atol=1e-12)
        expected |= {f"merged_{k}": tensor(p) for k, p in merged.named_parameters()}
    expected |= {"gradients": {k: tensor(g) for k, g in zip(adapter, gradients)}, "x_gradient": tensor(gradients[-1])}
    return {"name": name, "config": config, "inputs": inputs, "expected": expected}


def merge(model):
    """The base layer after peft's own merge, on a copy."""
    return copy.deepcopy(model).merge_and_unload().layer


def randomise(rng, parameters, scale=1.0):
    with torch.no_grad():
        for p in parameters:
            p.copy_(scale * normal(rng, *p.shape))
