"""Dynamic evaluation, a transcription of the authors' script (benkrause/dynamic-evaluation, dynamiceval.py) in f64. Seed 3.

What their script does, by which this one goes:

- The first token of the text is never scored; segment i scores tokens 1 + i s to (i + 1) s. Its loss is the mean over its
  tokens, recorded before the update, and its gradient is that of this mean, also where the last segment is shorter; only in
  the perplexity, exp(sum w loss / sum w), does a shorter segment count less, w = length / s. A last segment of a single token
  is left out. Every segment is followed by an update, the last as well. Dropout is off; gradients are not clipped.
- MS = sqrt(mean of g * g over the training segments), per element; g is the gradient of a segment's mean loss at the trained
  weights. A shorter last segment counts like the others there.
- RN = MS / m, where m is the mean over the parameter tensors of each tensor's mean MS: a small tensor counts like a large
  one, a tied one counts once. Before a run RN is cut to at most 1 / lambda. The cut is kept: in their grid search a larger
  lambda also cuts the runs that follow it. Here every run cuts anew.
- The update reads weights and gradient of before: w += lambda RN (w0 - w) - lr g / (MS + epsilon), for all parameters. Their
  script divides by lambda and so cannot run with 0; here 0 means no pull.

Their script has no SGD rule: w += lambda (w0 - w) - lr g here is the paper's. They carry a recurrent network's state from
segment to segment; this transformer instead sees the `context` tokens before a segment's first scored token, fewer at the
start of the text, at the positions of a row of its own. Statistics here are of batch 1 (theirs: 100 streams), over a stream
of their own cut in the same way.

The model is the `llama` case of `golden/models/llama_tiny.safetensors`. Every step gives `input` and `scored`, the tokens the
model reads and those it is scored on as [from, to); `loss` and `weight`. `dynamic_evaluation.safetensors` holds `ms/` for
every parameter, and below each case's name the weights after the last update of an attention matrix, a norm, the embedding
and the head. `rms_cut` has a lambda at which the cut of RN shows: `cut` numbers are above 1 / lambda.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from double import Double
from golden import ROOT, header, write
from safetensors.torch import load_file
from tiny_llama import LLAMA, build

KEPT = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "lm_head.weight",
]
S, CONTEXT = 5, 8
rng = torch.Generator().manual_seed(3)
training = torch.cat([torch.randperm(40, generator=rng), torch.randint(40, (41,), generator=rng)])
# Few kinds of token, so that what has been learned comes up again.
stream = torch.randperm(40, generator=rng)[:8][torch.randint(8, (60,), generator=rng)]
stored = load_file(ROOT / "golden" / "models" / "llama_tiny.safetensors")


def segments(tokens):
    """What the model reads and what it is scored on."""
    for start in range(1, len(tokens), S):
        end = min(start + S, len(tokens))
        yield (max(0, start - CONTEXT), end - 1), (start, end)


def loss_of(model, tokens, read, scored):
    logits = model(input_ids=tokens[None, read[0] : read[1]]).logits[0]
    return torch.nn.functional.cross_entropy(logits[scored[0] - scored[1] :], tokens[scored[0] : scored[1]])


def trained():
    model = build(LLAMA)
    assert all(torch.equal(p, stored[f"llama/{k}"]) for k, p in model.named_parameters())
    return model


def statistics():
    model = trained()
    squares, n = {k: torch.zeros_like(p) for k, p in model.named_parameters()}, 0
    for read, scored in segments(training):
        model.zero_grad()
        loss_of(model, training, read, scored).backward()
        for k, p in model.named_parameters():
            squares[k] += p.grad * p.grad
        n += 1
    return {k: (q / n).sqrt() for k, q in squares.items()}, n


with Double():
    ms, count = statistics()
mean = torch.stack([t.mean() for t in ms.values()]).mean()
tensors = {f"ms/{k}": t for k, t in ms.items()}


def case(name, rule, lr=0.0, decay=0.0, eps=None):
    model = trained()
    start = {k: p.detach().clone() for k, p in model.named_parameters()}
    rn = {k: t / mean for k, t in ms.items()}
    cut = sum((t > 1 / decay).sum().item() for t in rn.values()) if decay else 0
    steps = []
    for read, scored in segments(stream):
        model.zero_grad()
        loss = loss_of(model, stream, read, scored)
        loss.backward()
        steps.append({"input": read, "scored": scored, "loss": loss.item(), "weight": (scored[1] - scored[0]) / S})
        with torch.no_grad():
            for k, p in model.named_parameters():
                if rule == "rms":
                    pull = decay * rn[k].clamp(max=1 / decay) if decay else 0.0
                    p += pull * (start[k] - p) - lr * p.grad / (ms[k] + eps)
                else:
                    p += decay * (start[k] - p) - lr * p.grad
    tensors.update({f"{name}/{k}": p for k, p in model.named_parameters() if k in KEPT})
    total = sum(s["weight"] for s in steps)
    perplexity = torch.tensor(sum(s["weight"] * s["loss"] for s in steps) / total, dtype=torch.float64).exp().item()
    config = {"rule": rule, "segment": S, "context": CONTEXT, "lr": lr, "lambda": decay, "eps": eps}
    expected = {"steps": steps, "perplexity": perplexity, "tensors": [f"{name}/{k}" for k in KEPT]}
    if rule == "rms":
        largest = max(t.max().item() for t in rn.values())
        expected |= {"segments": count, "mean_ms": mean.item(), "largest_rn": largest, "cut": cut}
        expected["tensor_means"] = {k: t.mean().item() for k, t in ms.items()}
    inputs = {"model": "models/llama_tiny", "weights": "llama/", "training": training.tolist(), "stream": stream.tolist()}
    return {"name": name, "config": config, "inputs": inputs, "expected": expected}


with Double():
    cases = [
        case("static", "sgd"),
        case("sgd", "sgd", lr=0.1, decay=0.02),
        case("rms", "rms", lr=0.01, decay=0.02, eps=1e-3),
        case("rms_cut", "rms", lr=0.01, decay=0.3, eps=1e-3),
    ]
source = "transcription of benkrause/dynamic-evaluation (dynamiceval.py)"
commit = "09fa27c42bf1a31c05c160293df58507a6f94b6d"
write("tta/dynamic_evaluation", header(__file__, source, 3, {"f64": 1e-10, "f32": 1e-4}, commit=commit), cases, tensors)
for c in cases:
    e = c["expected"]
    print(c["name"], e["perplexity"], [round(s["loss"], 2) for s in e["steps"]], e.get("largest_rn"), e.get("cut"))
