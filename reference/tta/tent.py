"""Tent, a transcription of the authors' script (DequanWang/tent, tent.py and conf.py) in f64. Seed 2.

For each batch: forward with the batch's own statistics, mean softmax entropy, one optimiser step on the norms' scales and
shifts, and the logits of the forward pass that gave the loss. With `steps` 2 the same batch is gone over twice and the second
pass's logits are returned; episodic restores weights and optimiser before each batch. The SGD case keeps the authors' Nesterov
momentum with a larger rate, so that its effect shows.
"""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from tta_stream import batches, case, model


def run(name, optimiser, settings, steps=1, reset="never"):
    net, named = model()
    made = torch.optim.Adam if optimiser["method"] == "adamw" else torch.optim.SGD
    opt = made(named.values(), **settings)
    start = copy.deepcopy((net.state_dict(), opt.state_dict()))
    out = []
    for x in batches:
        if reset == "episodic":
            net.load_state_dict(start[0])
            opt.load_state_dict(copy.deepcopy(start[1]))
        for _ in range(steps):
            logits = net(x)
            entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(0)
            entropy.backward()
            opt.step()
            opt.zero_grad()
        out.append({"logits": logits, "params": {k: p.clone() for k, p in named.items()}})
    host = {"train": "norm_tuning", "optimiser": optimiser, "reset": reset}
    return case(name, {"steps": steps}, host, out)


adam = {"method": "adamw", "settings": {"lr": 1e-3}}, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
sgd = (
    {"method": "sgd", "settings": {"lr": 1e-2, "momentum": 0.9, "nesterov": True}},
    {"lr": 1e-2, "momentum": 0.9, "nesterov": True},
)
cases = [
    run("adam", *adam),
    run("sgd", *sgd),
    run("adam_two_steps", *adam, steps=2),
    run("adam_episodic", *adam, reset="episodic"),
]
source = "transcription of DequanWang/tent (tent.py, conf.py)"
write("tta/tent", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-4}), cases)
