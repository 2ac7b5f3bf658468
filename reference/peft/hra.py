"""HRA from peft 0.17.1 on a linear layer and a 3x3 convolution of stride 2. Seed 0.

`u` is [d, r] with d = in (or in * 9, the kernel flattened as [in, 3, 3]). The merged weight is W H, the reflections
multiplied from the first column to the last. `gram_schmidt` is peft's `apply_GS`. `penalty` is the squared Frobenius norm of
I - U'U over unit columns; peft has no penalty, so this number is the paper's formula written here.

Slips of the package that no case touches: for a convolution it takes the first number of kernel size, stride and padding
for both axes and forgets dilation and groups.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from adapters import conv, evaluate, linear, merge, randomise, wrap
from golden import header, write
from peft import HRAConfig

rng = torch.Generator().manual_seed(0)


def case(name, make, rank, gram_schmidt=False, paired=False):
    layer, x = make(rng)
    config = HRAConfig(r=rank, apply_GS=gram_schmidt, target_modules=["layer"], init_weights=False)
    model = wrap(layer, config)
    u = model.base_model.model.layer.hra_u["default"]
    randomise(rng, [u])
    if paired:
        with torch.no_grad():
            u[:, 1::2] = u[:, 0::2]
    config = {"rank": rank, "gram_schmidt": gram_schmidt}
    result = evaluate(name, config, rng, layer, x, {"u": u}, model, merge(model))
    unit = u / u.norm(dim=0)
    result["expected"]["penalty"] = (torch.eye(rank).double() - unit.T @ unit).square().sum().item()
    return result


cases = [
    case("linear", linear, 4),
    case("linear_odd_rank", linear, 3),
    case("linear_paired_start", linear, 4, paired=True),
    case("linear_gram_schmidt", linear, 4, gram_schmidt=True),
    case("conv", conv, 4),
    case("conv_gram_schmidt", conv, 4, gram_schmidt=True),
]
write("peft/hra", header(__file__, "peft", 0, {"f64": 1e-10, "f32": 1e-5}), cases)
