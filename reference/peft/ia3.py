"""(IA)3 from peft 0.17.1 on a linear layer and a 3x3 convolution of stride 2. Seed 0.

`scale` multiplies the outputs, bias included ([out]), or with `feedforward` the inputs ([in]).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from adapters import conv, evaluate, linear, merge, randomise, wrap
from golden import header, write
from peft import IA3Config

rng = torch.Generator().manual_seed(0)


def case(name, make, feedforward):
    layer, x = make(rng)
    modules = ["layer"] if feedforward else []
    model = wrap(layer, IA3Config(target_modules=["layer"], feedforward_modules=modules))
    scale = model.base_model.model.layer.ia3_l["default"]
    randomise(rng, [scale])
    result = evaluate(name, {"feedforward": feedforward}, rng, layer, x, {"scale": scale}, model, merge(model))
    for group in (result["inputs"]["adapter"], result["expected"]["gradients"]):
        group["scale"]["shape"] = [scale.numel()]
    return result


cases = [
    case("linear", linear, False),
    case("linear_feedforward", linear, True),
    case("conv", conv, False),
    case("conv_feedforward", conv, True),
]
write("peft/ia3", header(__file__, "peft", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
