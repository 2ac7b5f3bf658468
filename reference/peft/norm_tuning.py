"""LayerNorm tuning from peft 0.17.1. Seed 0.

The adapter is a whole new `weight` and `bias` in the place of the norm's own; merging puts them there. eps is 1e-5.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from adapters import evaluate, fill, merge, normal, randomise, wrap
from golden import header, write
from peft import LNTuningConfig
from torch import nn

rng = torch.Generator().manual_seed(0)
layer, x = fill(rng, nn.LayerNorm(6)), normal(rng, 2, 3, 6)
model = wrap(layer, LNTuningConfig(target_modules=["layer"]))
tuned = model.base_model.model.layer.ln_tuning_layers["default"]
adapter = {"weight": tuned.weight, "bias": tuned.bias}
randomise(rng, adapter.values())
case = evaluate("layer_norm", {}, rng, layer, x, adapter, model, merge(model), {"eps": layer.eps})
write("peft/norm_tuning", header(__file__, "peft", 0, {"f64": 1e-10, "f32": 1e-5}), [case])
