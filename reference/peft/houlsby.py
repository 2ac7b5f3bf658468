"""Houlsby's bottleneck, an f64 transcription (torch 2.8.0 arithmetic, no package). Seed 0.

y = h + phi(h W1 + b1) W2 + b2 in row-vector form: `w1` [d, m], `b1` [m], `w2` [m, d], `b2` [d], phi the tanh
form of GELU as in the authors' code; one case each for the other activations a config may name. The base is the identity.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import math

import torch
from adapters import evaluate, normal
from golden import header, write
from torch import nn

ACTIVATIONS = {
    "gelu_tanh": lambda z: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))),
    "relu": lambda z: z.clamp(min=0),
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "tanh": torch.tanh,
}
rng = torch.Generator().manual_seed(0)
d, m = 6, 3


def case(activation):
    shapes = {"w1": (d, m), "b1": (m,), "w2": (m, d), "b2": (d,)}
    p = {k: normal(rng, *s).requires_grad_() for k, s in shapes.items()}
    forward = lambda h: h + ACTIVATIONS[activation](h @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
    config = {"bottleneck": m, "activation": activation}
    return evaluate(activation, config, rng, nn.Identity(), normal(rng, 2, 3, d), p, forward)


source = "transcription of arXiv 1902.00751, google-research/adapter-bert"
write("peft/houlsby", header(__file__, source, 0, {"f64": 1e-10, "f32": 1e-5}), [case(a) for a in ACTIVATIONS])
