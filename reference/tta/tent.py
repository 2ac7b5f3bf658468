"""Tent, a transcription of the authors' script (DequanWang/tent, tent.py and conf.py) with torch 2.8.0 in f64. Seed 2.

The model is the batch-norm net of `golden/models/resnet_tiny.safetensors`. For each of three batches of eight images: forward
with the batch's own statistics, mean softmax entropy, one optimiser step on the norms' scales and shifts, and the logits of
the forward pass that gave the loss. With `steps` 2 the same batch is gone over twice and the second pass's logits are
returned; `episodic` restores weights and optimiser before each batch. A step records the logits, the entropy of the last pass
and the scales and shifts after the update; the first also the gradients of its first pass. The SGD case keeps the authors'
Nesterov momentum with a larger rate, so that its effect shows.
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import ROOT, header, tensor, write
from safetensors.torch import load_file
from tiny_resnet import build, use_batch_statistics
from torch import nn

rng = torch.Generator().manual_seed(2)
batches = [(torch.randn(8, 1, 8, 8, generator=rng, dtype=torch.float64) * 1e3).round() / 1e3 * s for s in (1.0, 1.5, 0.5)]
stored = load_file(ROOT / "golden" / "models" / "resnet_tiny.safetensors")


def configure():
    model = build("batch")
    for name, value in model.state_dict().items():
        assert "num_batches" in name or torch.equal(value, stored[f"batch_norm/{name}"]), name
    use_batch_statistics(model).train().requires_grad_(False)
    named = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
            named |= {f"{path}.weight": module.weight, f"{path}.bias": module.bias}
    return model, named


def case(name, optimiser, steps=1, episodic=False):
    model, named = configure()
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser["name"]]
    opt = kind(named.values(), **{k: v for k, v in optimiser.items() if k != "name"})
    start = copy.deepcopy((model.state_dict(), opt.state_dict()))
    out, first = [], None
    for x in batches:
        if episodic:
            model.load_state_dict(start[0])
            opt.load_state_dict(copy.deepcopy(start[1]))
        for _ in range(steps):
            logits = model(x)
            entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(0)
            entropy.backward()
            first = first or {k: tensor(p.grad) for k, p in named.items()}
            opt.step()
            opt.zero_grad()
        after = {k: tensor(p) for k, p in named.items()}
        out.append({"logits": tensor(logits), "entropy": entropy.item(), "params": after})
    config = {"steps": steps, "episodic": episodic, "optimiser": optimiser}
    inputs = {"model": "models/resnet_tiny", "weights": "batch_norm/", "batches": [tensor(x) for x in batches]}
    return {"name": name, "config": config, "inputs": inputs, "expected": {"gradients": first, "steps": out}}


adam = {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
sgd = {"name": "sgd", "lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}
cases = [
    case("adam", adam),
    case("sgd", sgd),
    case("adam_two_steps", adam, steps=2),
    case("adam_episodic", adam, episodic=True),
]
source = "transcription of DequanWang/tent (tent.py, conf.py)"
write("tta/tent", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
