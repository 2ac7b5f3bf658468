"""VeRA from peft 0.17.1 on two linear layers of different sizes that share one pair of projections. Seed 0.

`shared` holds `a` [r, largest in] and `b` [largest out, r]; a layer uses the first `in` columns and the first `out` rows.
The adapter is `d` [r] and `b` [out]. peft draws the pair from its own random stream, so it is recorded, not the seed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from adapters import fill, evaluate, normal, randomise
from golden import header, tensor, write
from peft import VeraConfig, get_peft_model
from torch import nn

rng = torch.Generator().manual_seed(0)
rank = 4
layers = {"wide": fill(rng, nn.Linear(6, 5)), "tall": fill(rng, nn.Linear(4, 7))}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.tall = nn.Linear(6, 5).double(), nn.Linear(4, 7).double()
        for name, layer in layers.items():
            getattr(self, name).load_state_dict(layer.state_dict())


def build():
    config = VeraConfig(r=rank, target_modules=list(layers), d_initial=0.1)
    return get_peft_model(Model().double(), config, autocast_adapter_dtype=False).double()


model = build()
shared = {"shared": {"a": tensor(model.base_model.vera_A["default"]), "b": tensor(model.base_model.vera_B["default"])}}
wrapped = {name: getattr(model.base_model.model, name) for name in layers}
adapters = {k: {"d": w.vera_lambda_d["default"], "b": w.vera_lambda_b["default"]} for k, w in wrapped.items()}
for adapter in adapters.values():
    randomise(rng, adapter.values())
merged = build()
merged.load_state_dict(model.state_dict())
merged = merged.merge_and_unload()
cases = []
for name, layer in layers.items():
    x = normal(rng, 2, 3, layer.in_features)
    config = {"rank": rank, "d_init": 0.1, "dropout": 0.0}
    cases.append(evaluate(name, config, rng, layer, x, adapters[name], wrapped[name], getattr(merged, name), shared))
write("peft/vera", header(__file__, "peft", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
