"""LoRA and DoRA from peft 0.17.1 on a linear layer and a 3x3 convolution of stride 2, dropout 0. Seed 0.

`a` is [r, in] and `b` is [out, r]; for the convolution [r, in, 3, 3] and [out, r, 1, 1]. The scale is alpha / r, with
`rank_stabilised` alpha / sqrt(r). Slips of the package that no case touches: a dilated base convolution gets an undilated
adapter, and `set_scale` and `unscale_layer()` return to alpha / r also under rank stabilisation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from adapters import conv, evaluate, linear, merge, randomise, wrap
from golden import header, write
from peft import LoraConfig

rng = torch.Generator().manual_seed(0)


def case(name, make, rank, alpha, rank_stabilised, decomposed=False):
    layer, x = make(rng)
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rank_stabilised, use_dora=decomposed, target_modules=["layer"])
    model = wrap(layer, config)
    wrapped = model.base_model.model.layer
    adapter = {"a": wrapped.lora_A["default"].weight, "b": wrapped.lora_B["default"].weight}
    if decomposed:
        adapter["m"] = wrapped.lora_magnitude_vector["default"].weight
    randomise(rng, adapter.values())
    config = {"rank": rank, "alpha": alpha, "rank_stabilised": rank_stabilised, "decomposed": decomposed, "dropout": 0.0}
    return evaluate(name, config, rng, layer, x, adapter, model, merge(model))


cases = [
    case("linear", linear, 2, 3.0, False),
    case("linear_rank_stabilised", linear, 3, 4.0, True),
    case("conv", conv, 2, 3.0, False),
    case("conv_rank_stabilised", conv, 3, 4.0, True),
    case("linear_decomposed", linear, 2, 3.0, False, True),
    case("conv_decomposed_rank_stabilised", conv, 3, 4.0, True, True),
]
write("peft/lora", header(__file__, "peft", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
