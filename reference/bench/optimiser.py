"""D-Adapt Adam over all of MiniLM's weights, gradients given."""

import torch
from cases import asset
from dadaptation import DAdaptAdam
from safetensors.torch import load_file

WHO = f"dadaptation 3.2, PyTorch {torch.__version__.split('+')[0]}"
THREADS = torch.get_num_threads()


def dadapt_adam(_):
    torch.manual_seed(5)
    tensors = load_file(asset("minilm") / "model.safetensors").values()
    params = [torch.nn.Parameter(t) for t in tensors if t.is_floating_point()]
    for p in params:
        p.grad = 1e-3 * torch.randn(p.shape)
    optimiser = DAdaptAdam(params, lr=1.0)
    return optimiser.step
