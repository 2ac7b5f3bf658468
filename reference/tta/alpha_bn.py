"""Alpha-BN by a benchmark's module (mariodoebler/test-time-adaptation, classification/methods/bn.py) in f64. Seed 2.

The module keeps the batch's variance divided by n - 1; a hook divides it by n. For `mixture_variance` the hook adds the distance of the
means, which the module then weights with the batch's share.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import batches, case, model

torch.set_default_dtype(torch.float64)
REPOSITORY, PATH = "mariodoebler/test-time-adaptation", "classification/methods/bn.py"
COMMIT = "8b2ed63255d906b6b0afaefc6ae630b9ec4bdaa1"
AlphaBatchNorm = take(REPOSITORY, COMMIT, PATH, ["AlphaBatchNorm"]).AlphaBatchNorm


def run(name, weight, settings, mixture=False, at=None):
    net, _ = model(train="none", statistics="stored")
    net = AlphaBatchNorm.adapt_model(net, weight)
    for path, module in net.named_modules():
        if isinstance(module, AlphaBatchNorm):
            module.alpha = (at or {}).get(path, weight)

            def put_right(norm, inputs, _, module=module):
                n = inputs[0].numel() / norm.num_features
                norm.running_var.mul_((n - 1) / n)
                if mixture:
                    norm.running_var.add_((1 - module.alpha) * (norm.running_mean - module.layer.running_mean) ** 2)

            module.norm.register_forward_hook(put_right)
    with torch.no_grad():
        return case(name, settings, {}, [{"logits": net(x)} for x in batches])


sites = {"stem.norm": 0.9, "stages.1.0.norm2": 0.2}
cases = [
    run("tenth", 0.1, {"target_weight": 0.1}),
    run("default", 0.5, {}),
    run("by_rows", 0.8, {"source_rows": 2.0}),
    run("mixture", 0.3, {"target_weight": 0.3, "mixture_variance": True}, mixture=True),
    run("by_site", 0.4, {"target_weight": 0.4, "site_weights": sites}, at=sites),
]
source = f"{REPOSITORY} ({PATH})"
write("tta/alpha_bn", header(__file__, source, 2, {"f64": 1e-12, "f32": 1e-4}, commit=COMMIT), cases)
