"""Tiny ResNets in f64 from transformers' `ResNetForImageClassification` (transformers 4.57.1), with blocks of two and of three convolutions.

Random weights, seed 0; `hidden_sizes` [4, 8], a block in each of two stages, 3 classes, ImageNet's stem. For each type of layer
`golden/models/resnet_hf_tiny.safetensors` holds the weights under `basic/` or `bottleneck/`, the same under torchvision's names under
`basic.torchvision/` and `bottleneck.torchvision/`, `x` [4, 3, 21, 18] and the logits, `….logits`. `config` is the checkpoint's config.json.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from transformers import ResNetConfig, ResNetForImageClassification

rng = torch.Generator().manual_seed(0)
draw = lambda t: torch.randn(t.shape, generator=rng, dtype=torch.float64)


def torchvision(name):
    name = name.replace("resnet.embedder.embedder.convolution", "conv1").replace("resnet.embedder.embedder.normalization", "bn1")
    name = name.replace("classifier.1", "fc")
    name = re.sub(r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.", name)
    name = re.sub(r"\.layer\.(\d+)\.convolution", lambda m: f".conv{int(m[1]) + 1}", name)
    name = re.sub(r"\.layer\.(\d+)\.normalization", lambda m: f".bn{int(m[1]) + 1}", name)
    return name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")


x = torch.randn(4, 3, 21, 18, generator=rng, dtype=torch.float64)
tensors, cases = {"x": x}, []
for kind in ("basic", "bottleneck"):
    # A stem as wide as the first stage's blocks are inside, as the published ones have it.
    stem = 4 if kind == "basic" else 1
    config = ResNetConfig(num_channels=3, embedding_size=stem, hidden_sizes=[4, 8], depths=[1, 1], layer_type=kind, num_labels=3)
    net = ResNetForImageClassification(config).double().eval()
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if "num_batches" in name:
                continue
            if "running_var" in name:
                t.copy_(0.5 + draw(t).abs())
            elif t.dim() > 1:
                t.copy_(draw(t) * (2 / t[0].numel()) ** 0.5)
            else:
                t.copy_(0.3 * draw(t) + ("normalization" in name and name.endswith("weight")))
        tensors[f"{kind}.logits"] = net(x).logits
    weights = {k: v.clone() for k, v in net.state_dict().items() if "num_batches" not in k}
    tensors |= {f"{kind}/{k}": v for k, v in weights.items()} | {f"{kind}.torchvision/{torchvision(k)}": v for k, v in weights.items()}
    keys = ("num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act", "downsample_in_first_stage", "downsample_in_bottleneck", "id2label")
    said = {"model_type": "resnet"} | {k: getattr(config, k) for k in keys}
    said["id2label"] = {str(k): v for k, v in said["id2label"].items()}
    cases.append({"name": kind, "config": said, "weights": f"{kind}/", "inputs": ["x"], "expected": [f"{kind}.logits"]})
write("models/resnet_hf_tiny", header(__file__, "transformers", 0, {"f64": 1e-10, "f32": 1e-5}), cases, tensors)
