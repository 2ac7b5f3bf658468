"""Double precision for models that compute parts in single whatever their weights are.

transformers' Llama and Qwen2 run norms, softmax and rotary angles in f32 in an f64 model too, which leaves seven good digits.
"""

import torch
from torch.overrides import TorchFunctionMode


class Double(TorchFunctionMode):
    """`with Double():` every request for f32 is one for f64. Build the model inside it as well, for the rotary frequencies."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        wide = lambda v: torch.float64 if v is torch.float32 else v
        return func(*map(wide, args), **{k: wide(v) for k, v in (kwargs or {}).items()})
