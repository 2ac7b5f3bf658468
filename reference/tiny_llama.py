"""The tiny Llama and Qwen2 that `models/llama_tiny.py` and `tta/dynamic_evaluation.py` share."""

import torch
from double import Double
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
}
QWEN2 = {k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias")} | {
    "model_type": "qwen2",
    "tie_word_embeddings": True,
    "rope_theta": 1000.0,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
}


def build(config, seed=0):
    """The model in f64 and inference mode; weights and biases are normal with deviation 0.3, norm gains about 1."""
    config = dict(config)
    make = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[config.pop("model_type")]
    with Double():
        model = make[1](make[0](**config, attn_implementation="eager")).double().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=rng, dtype=torch.float64) + ("norm" in name))
    return model
