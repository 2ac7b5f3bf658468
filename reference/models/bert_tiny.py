"""A tiny random BERT in f64 from transformers 4.57.1 (BertModel without pooler, eager attention). Seed 0.

`golden/models/bert_tiny.safetensors` holds every weight under transformers' name, `input_ids`, `attention_mask`,
`token_type_ids` (i64, [3, 9], two rows padded) and `hidden.0` (embeddings) to `hidden.2` (last) as [3, 9, 16]. The hidden
states of padded positions are recorded as well; compare them or not. `pooled` is the mean over real tokens, divided by
its L2 norm. All weights are normal with deviation 0.3 (norm gains about 1), so that every term matters.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from transformers import BertConfig, BertModel

config = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
model = BertModel(BertConfig(**config, attn_implementation="eager"), add_pooling_layer=False).double().eval()
rng = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, p in model.named_parameters():
        p.copy_(0.3 * torch.randn(p.shape, generator=rng, dtype=torch.float64) + ("LayerNorm.weight" in name))

lengths = [9, 4, 6]
ids = torch.randint(1, 40, (3, 9), generator=rng)
mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
ids = ids * mask
types = torch.zeros_like(ids)
types[0, 5:] = 1
types[2, 2:6] = 1
with torch.no_grad():
    hidden = model(input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True).hidden_states
weight = mask[:, :, None].double()
pooled = torch.nn.functional.normalize((hidden[-1] * weight).sum(1) / weight.sum(1), dim=1)

tensors = {name: p for name, p in model.named_parameters()}
tensors |= {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "pooled": pooled}
tensors |= {f"hidden.{k}": h for k, h in enumerate(hidden)}
case = {
    "name": "tiny",
    "config": config,
    "inputs": ["input_ids", "attention_mask", "token_type_ids"],
    "expected": [f"hidden.{k}" for k in range(len(hidden))] + ["pooled"],
    "weights": [name for name, _ in model.named_parameters()],
}
write("models/bert_tiny", header(__file__, "transformers", 0, {"f64": 1e-10, "f32": 1e-5}), [case], tensors)
