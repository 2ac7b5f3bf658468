"""Instance-aware batch norm by its authors' class, for two scripts below `tta`."""

import copy
from types import SimpleNamespace

import numpy
import torch
from authors import take

REPOSITORY, PATH = "TaesikGong/NOTE", "utils/iabn.py"
COMMIT = "a714a2a2a9406903ba787b0bc240a95dd0342de5"


def converted(net, deviations, momentum=0.1):
    """The network with its batch norms replaced; `norm.weight` becomes `norm._bn.weight`."""
    conf = SimpleNamespace(args=SimpleNamespace(iabn_k=deviations, skip_thres=1))
    names = ["convert_iabn", "InstanceAwareBatchNorm2d", "InstanceAwareBatchNorm1d"]
    made = take(REPOSITORY, COMMIT, PATH, names, np=numpy, copy=copy, conf=conf)
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = momentum
    return made.convert_iabn(net)
