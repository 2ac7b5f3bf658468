"""UnMix-TNS by its authors' module, with first components out of acclimate's random streams: for two scripts below `tta`."""

from unittest import mock

import torch
from authors import take
from streams import normal, stream

REPOSITORY, PATH = "devavratTomar/unmixtns", "tta_experiments/unmixtns.py"
COMMIT = "8e12b9f03f394290eb89df58e17d949f082d5152"
NAMES = ["get_named_submodule", "set_named_submodule", "BaseNormLayer", "UnMixTNS2d", "UnMixTNS1d", "replace_bn_layers"]


def unmixed(net, components=16, momentum=0.1, rows=8, full_batch=64, seed=0):
    """The network in f64 with its batch norms replaced; parameters keep their paths."""
    from copy import deepcopy

    made = take(REPOSITORY, COMMIT, PATH, NAMES, deepcopy=deepcopy)
    norms = [(path, norm) for path, norm in net.named_modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    for _, norm in norms:
        norm.momentum = momentum
    sites = iter([path for path, _ in norms])

    def drawn(like):
        words = stream(seed, f"components of {next(sites)}", 0)
        return torch.tensor([normal(words) for _ in range(like.numel())], dtype=torch.float64).view(like.shape)

    with mock.patch.object(torch, "randn_like", drawn):
        return made.replace_bn_layers(net, components, rows, full_batch)


def kept(net):
    """What the norms remember, under acclimate's names."""
    state = {}
    for path, layer in net.named_modules():
        if hasattr(layer, "running_means_mat"):
            state[f"components/{path}.means"] = layer.running_means_mat.clone()
            state[f"components/{path}.variances"] = layer.running_vars_mat.clone()
    return state
