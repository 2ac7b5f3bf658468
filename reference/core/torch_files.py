"""Checkpoints as torch writes them (torch 2.8.0): both forms, plain and inside a training script's dictionary. Seed 0.

`bytes` is the file in hexadecimal; `golden/core/torch_files.safetensors` holds the floats it has, under their names after `state/`. Among
them are a part of a larger tensor, one whose axes were turned, one of half precision and a parameter; a count without axes is no float and
is left out there. Keys of the older form are addresses and differ from run to run. The cases with `refused` must not be read: columns of a
larger tensor, a whole module, and what runs a command.
"""

import collections
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write

rng = torch.Generator().manual_seed(0)
base = torch.randn(6, 4, generator=rng)
state = collections.OrderedDict()
state["a.weight"] = base[2:4]
state["a.bias"] = torch.nn.Parameter(torch.randn(3, generator=rng, dtype=torch.float64))
state["a.half"] = torch.randn(2, 1, 3, generator=rng).half()
state["a.turned"] = torch.randn(3, 1, 2, 4, generator=rng).permute(3, 1, 0, 2)
state["a.count"] = torch.tensor(7)
floats = {k: v.detach().contiguous() for k, v in state.items() if v.is_floating_point()}


class Command:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def saved(value, archive):
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=archive)
    return out.getvalue().hex()


cases, tensors = [], {f"state/{k}": v for k, v in floats.items()}
for form, archive in (("pickles", False), ("archive", True)):
    for name, value, refused in (
        ("plain", state, None),
        ("inside", {"epoch": 3, "loss": 0.5, "state_dict": state, "history": [1, -2, None]}, None),
        ("columns", {"w": base[:, :2]}, "[6, 2] with its numbers [4, 1] apart"),
        ("command", {"w": Command()}, "posix.system"),
        ("module", torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ):
        config = {"refused": refused} if refused else {}
        cases.append({"name": f"{name} {form}", "config": config, "inputs": {"bytes": saved(value, archive)}, "expected": [] if refused else ["state/"]})
write("core/torch_files", header(__file__, "torch", 0, {"f64": 0.0, "f32": 0.0}), cases, tensors)
