"""DQRP: the objective, its slope in the level and all gradients by torch's automatic differentiation in f64. Seed 91.

The network and loss are a transcription of the paper's formulas; the slope is autograd's, kept in the graph, not a forward recursion.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, tensor, write

torch.set_default_dtype(torch.float64)
torch.manual_seed(91)


def case(name, inputs, widths, rows, penalty):
    sizes = [inputs + 1, *widths]
    layers = [(0.7 * torch.randn(b, a), 0.3 * torch.randn(b)) for a, b in zip(sizes, sizes[1:])]
    output, constant = torch.randn(sizes[-1]), torch.randn(())
    params = [p.requires_grad_() for layer in layers for p in layer] + [output.requires_grad_(), constant.requires_grad_()]
    x, levels, y = torch.randn(rows, inputs), torch.rand(rows), torch.randn(rows)
    tau = levels.clone().requires_grad_()
    h = torch.cat([x, (2 * tau - 1)[:, None]], 1)
    given = h.detach().clone()
    for w, b in layers:
        h = torch.relu(h @ w.T + b) ** 2
    value = h @ output + constant
    (slope,) = torch.autograd.grad(value.sum(), tau, create_graph=True)
    far = y - value
    loss = (torch.maximum(levels * far, (levels - 1) * far) + penalty * torch.relu(-slope)).mean()
    gradients = torch.autograd.grad(loss, params)
    return {
        "name": name,
        "config": {"penalty": penalty, "depth": len(widths)},
        "inputs": {"params": [tensor(p) for p in params], "x": tensor(given), "levels": tensor(levels), "y": tensor(y)},
        "expected": {
            "loss": loss.item(),
            "value": tensor(value),
            "slope": tensor(slope),
            "gradients": [tensor(g) for g in gradients],
        },
    }


cases = [case("one layer", 2, [5], 9, 0.0), case("three layers", 3, [6, 5, 4], 11, 2.0), case("two layers", 1, [4, 4], 8, 6.0)]
write("stats/quantile_process", header(__file__, "torch", 91, {"f64": 1e-11}), cases)
