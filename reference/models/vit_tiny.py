"""A tiny vision transformer in f64 from transformers' `ViTForImageClassification` (transformers 4.57.1). Seed 0.

Images of 3 x 12 x 12 in nine patches, two layers of width 16 with two heads, 4 classes, random weights.
`golden/models/vit_tiny.safetensors` holds the weights under their own names after `net/`, `x` [3, 3, 12, 12], the class token's states
after the last norm, `features`, and `logits`. `config` is the checkpoint's config.json. transformers takes the softmax in f32 whatever
the weights are; `Double` makes it f64.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from double import Double
from golden import header, write
from transformers import ViTConfig, ViTForImageClassification

rng = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)
config = ViTConfig(image_size=12, patch_size=4, num_channels=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=4)
config._attn_implementation = "eager"
net = ViTForImageClassification(config).double().eval()
with torch.no_grad(), Double():
    for name, t in net.state_dict().items():
        t.copy_(0.3 * draw(*t.shape) + ("layernorm" in name and name.endswith("weight")))
    x = draw(3, 3, 12, 12)
    logits, features = net(x).logits, net.vit(x).last_hidden_state[:, 0]
tensors = {f"net/{k}": v.clone() for k, v in net.state_dict().items()} | {"x": x, "features": features, "logits": logits}
keys = ("image_size", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps", "qkv_bias", "id2label")
said = {"model_type": "vit"} | {k: getattr(config, k) for k in keys}
said["id2label"] = {str(k): v for k, v in said["id2label"].items()}
write("models/vit_tiny", header(__file__, "transformers", 0, {"f64": 1e-10, "f32": 1e-5}), [{"name": "vit", "config": said, "weights": "net/", "inputs": ["x"], "expected": ["features", "logits"]}], tensors)
