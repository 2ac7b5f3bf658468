"""Tiny random Llama and Qwen2 in f64 from transformers 4.57.1 (eager attention). Seed 0.

`double.py` keeps transformers from rounding norms, softmax and rotary angles to f32. `golden/models/llama_tiny.safetensors`
holds the weights under transformers' names below `llama/` and `qwen2/` (whose head is its embedding), and three batches:

- `right.input_ids`, `right.attention_mask` [3, 7]: rows of 7, 4 and 1 tokens, padded at the end with token 0;
- `left.*`: the same rows padded in front, with `left.position_ids` that count real tokens (0 at padding);
- `packed.*` [1, 9]: a document of 5 tokens and one of 4 in a row, `packed.document_ids` (0 or 1), `packed.position_ids` that
  restart; a token sees the earlier ones of its document and itself.

Below a case's name lie, for each batch, `hidden.0` (embeddings), `hidden.1` (after a layer) and `hidden.2` (after both layers
and the last norm) as [rows, n, 16], and `logits` [rows, n, 40]. Padded positions hold whatever the model computes there;
compare real tokens only. `loss` is the mean cross-entropy over the tokens that have a token of their own row or document
before them: 9 in the padded batches, 7 in the packed one. `gradients/` holds the gradients of the right-padded batch's loss
for every weight. `greedy` continues each row by 12 tokens, the likeliest each time; `margin` is the smallest lead of a
chosen token's logit. The cases with `rope_scaling` have the weights of `llama/` and states only: with theta 10000 the rule of
`llama3` leaves the first frequency and divides the second, with theta 9 the second lies in the band between.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from double import Double
from golden import header, write
from tiny_llama import LLAMA, QWEN2, build

rng = torch.Generator().manual_seed(1)
rows = [torch.randint(1, 40, (n,), generator=rng) for n in (7, 4, 1)]
documents = [torch.randint(1, 40, (n,), generator=rng) for n in (5, 4)]
ignored = -100  # cross_entropy's label for what does not count


def labels(ids, counts):
    """The next token where `counts` says that it belongs to the same text."""
    return torch.where(counts, ids, ignored)[:, 1:].flatten()


def padded(front):
    place = lambda row, value: torch.nn.functional.pad(value, (7 - len(row), 0) if front else (0, 7 - len(row)))
    ids = torch.stack([place(r, r) for r in rows])
    mask = torch.stack([place(r, torch.ones_like(r)) for r in rows])
    real = mask.bool()
    has_past = torch.nn.functional.pad(real[:, :-1], (1, 0)) & real
    return {"input_ids": ids, "attention_mask": mask}, has_past


right, right_counts = padded(False)
left, left_counts = padded(True)
left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
document = torch.tensor([[0] * 5 + [1] * 4])
packed = {
    "input_ids": torch.cat(documents)[None],
    "position_ids": torch.cat([torch.arange(5), torch.arange(4)])[None],
}
sees = (document[:, :, None] == document[:, None, :]).tril()[:, None]
added = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)  # to the attention's scores
batches = {
    "right": (right, right_counts, right),
    "left": (left, left_counts, left),
    "packed": (packed, packed["position_ids"] > 0, packed | {"attention_mask": added}),
}


def greedy(model, row, n):
    ids, margin = row.tolist(), float("inf")
    for _ in range(n):
        best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        ids.append(best.indices[0].item())
        margin = min(margin, (best.values[0] - best.values[1]).item())
    return ids[len(row) :], margin


tensors = {f"{k}.{name}": t for k, (stored, _, _) in batches.items() for name, t in stored.items()}
tensors["packed.document_ids"] = document


def case(name, config, weights=None):
    model = build(config)
    expected = {"loss": {}}
    if weights is None:
        tensors.update({f"{name}/{k}": p for k, p in model.named_parameters()})
    else:
        assert all(torch.equal(tensors[weights + k], p) for k, p in model.named_parameters())
    with Double():
        for batch, (_, counts, inputs) in batches.items():
            model.zero_grad()
            out = model(**inputs, output_hidden_states=True)
            logits, targets = out.logits, labels(inputs["input_ids"], counts)
            assert (targets != ignored).sum() == (7 if batch == "packed" else 9)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=ignored)
            expected["loss"][batch] = loss.item()
            tensors.update({f"{name}/{batch}.hidden.{k}": h for k, h in enumerate(out.hidden_states)})
            tensors[f"{name}/{batch}.logits"] = logits
            if batch == "right" and weights is None:
                loss.backward()
                tensors.update({f"{name}/gradients/{k}": p.grad for k, p in model.named_parameters()})
        with torch.no_grad():
            alone = lambda row: model(input_ids=row[None]).logits[0]
            real = [alone(r) for r in rows]
            for k, r in enumerate(real):
                assert (tensors[f"{name}/right.logits"][k, : len(r)] - r).abs().max() < 1e-13
                assert (tensors[f"{name}/left.logits"][k, 7 - len(r) :] - r).abs().max() < 1e-13
            assert (tensors[f"{name}/packed.logits"][0] - torch.cat([alone(d) for d in documents])).abs().max() < 1e-13
            if weights is None:
                steps = [greedy(model, r, 12) for r in rows]
                expected |= {"greedy": [ids for ids, _ in steps], "margin": min(m for _, m in steps)}
    inputs = {"batches": list(batches), "lengths": [len(r) for r in rows], "documents": [len(d) for d in documents]}
    expected["tensors"] = sorted(k for k in tensors if k.startswith(tuple(f"{name}/{batch}." for batch in batches)))
    return {"name": name, "config": config, "weights": weights or f"{name}/", "inputs": inputs, "expected": expected}


def scaled(**scaling):
    return LLAMA | {"rope_scaling": scaling}


llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
cases = [
    case("llama", LLAMA),
    case("qwen2", QWEN2),
    case("llama3", scaled(rope_type="llama3", **llama3), "llama/"),
    case("llama3_between", scaled(rope_type="llama3", **llama3) | {"rope_theta": 9.0}, "llama/"),
    case("linear", scaled(rope_type="linear", factor=2.0), "llama/"),
]
write("models/llama_tiny", header(__file__, "transformers", 0, {"f64": 1e-10, "f32": 5e-5}), cases, tensors)
