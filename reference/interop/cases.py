"""The base models and the PEFT folders that `peft_side.py` builds, each with what a reader is expected to do with it.

A case is a config of peft 0.17.1, where needed a model around the base whose names differ from it, and what is then changed
in the saved folder by hand. With a `word` it must be refused by an error that holds the word; without one it must work.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny_resnet
import torch
from peft import (
    AdaLoraConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.bert.modeling_bert import BertPooler

SHARED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("ACCLIMATE_CACHE") or SHARED / "acclimate")
TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

# What each base answers, which is also what `run` reads: last states, scores of the vocabulary, or logits of images.
BASES = {
    "bert": "states",
    "llama": "scores",
    "llama_tied": "scores",
    "conv": "logits",
    "minilm": "states",
    "smollm2": "scores",
}


def asset(name):
    """The folder of a published model among the assets that acclimate keeps."""
    return CACHE / "assets" / name


def present(name):
    """Whether a base can be had: the tiny ones always, the published ones where their asset is."""
    return name not in ("minilm", "smollm2") or asset(name).is_dir()


def draw(model, seed):
    """Normal weights of deviation 0.3, and norm gains about 1, so that every term matters."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=rng) + ("norm" in name.lower() and name.endswith("weight")))
    return model.eval()


def write_bases(folder):
    """Writes the tiny models as folders that transformers and acclimate read alike."""
    bert = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=60,
        max_position_embeddings=32,
        type_vocab_size=2,
    )
    draw(BertModel(bert, add_pooling_layer=False), 1).save_pretrained(folder / "bert")
    for name, tied in (("llama", False), ("llama_tied", True)):
        llama = LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            vocab_size=60,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
            rms_norm_eps=1e-5,
        )
        draw(LlamaForCausalLM(llama), 2).save_pretrained(folder / name)
    net = tiny_resnet.build("batch", 3).float()
    (folder / "conv").mkdir(parents=True, exist_ok=True)
    tensors = {k: v.contiguous() for k, v in net.state_dict().items() if "num_batches" not in k}
    save_file(tensors, folder / "conv/model.safetensors")
    shape = {"image": [1, 8, 8], "classes": 3, "widths": [8, 16], "blocks": [1, 1], "norm": "batch", "eps": 1e-5}
    (folder / "conv/config.json").write_text(json.dumps({"model_type": "resnet", **shape}, indent=2) + "\n")


def read_base(models, name):
    """A base model in f32 and inference mode."""
    plain = {"attn_implementation": "eager", "dtype": torch.float32, "local_files_only": True}
    match name:
        case "bert":
            model = BertModel.from_pretrained(models / name, add_pooling_layer=False, **plain)
        case "llama" | "llama_tied":
            model = LlamaForCausalLM.from_pretrained(models / name, **plain)
        case "conv":
            model = tiny_resnet.Net(nn.BatchNorm2d)
            model.load_state_dict(load_file(models / name / "model.safetensors"), strict=False)
        case "minilm":
            model = AutoModel.from_pretrained(asset(name), **plain)
        case "smollm2":
            model = AutoModelForCausalLM.from_pretrained(asset(name), gguf_file="model.gguf", **plain)
    return model.eval()


def inputs(name):
    """A padded batch of token numbers, or images."""
    rng = torch.Generator().manual_seed(4)
    if name == "conv":
        return {"images": torch.randn(4, 1, 8, 8, generator=rng)}
    words, lengths = {"minilm": (30522, [14, 5, 9]), "smollm2": (49152, [14, 5, 9])}.get(name, (60, [9, 4, 6]))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"ids": torch.randint(1, words, mask.shape, generator=rng) * mask, "mask": mask}


def run(name, model, batch):
    """What the base answers, with whatever peft has put into its modules. Padded positions become zero."""
    with torch.no_grad():
        if name == "conv":
            return model(batch["images"])
        ids, mask = batch["ids"].long(), batch["mask"].long()
        answer = model(input_ids=ids, attention_mask=mask)
        answer = answer.last_hidden_state if BASES[name] == "states" else answer.logits
        return answer * mask[:, :, None]


@dataclass
class Case:
    model: str
    name: str
    config: PeftConfig
    word: str | None = None
    outer: Callable = lambda base: base
    edit: Callable = lambda folder, model: None


def settings(**changes):
    """An edit that sets keys of `adapter_config.json`."""

    def edit(folder, _):
        file = folder / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2, sort_keys=True))

    return edit


def tensors(change):
    """An edit of the tensors: `change` gets and returns the dictionary."""

    def edit(folder, model):
        file = folder / TENSORS
        save_file({k: v.contiguous() for k, v in change(load_file(file), model).items()}, file, {"format": "pt"})

    return edit


def truncate(folder, _):
    file = folder / TENSORS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickle(folder, _):
    torch.save(load_file(folder / TENSORS), folder / "adapter_model.bin")
    (folder / TENSORS).unlink()


def nest(folder, _):
    """What peft does with an adapter whose name is not `default`."""
    (folder / "other").mkdir()
    for name in (CONFIG, TENSORS):
        (folder / name).rename(folder / "other" / name)


def drop(end):
    return tensors(lambda kept, _: {k: v for k, v in kept.items() if not k.endswith(end)})


def with_biases(kept, model):
    """What peft from 0.19.2 on writes for `lora_only` and 0.17.1 forgets."""
    biases = {
        f"base_model.model.{name}.base_layer.bias": module.base_layer.bias.detach()
        for name, module in model.base_model.model.named_modules()
        if hasattr(module, "lora_A") and module.base_layer.bias is not None
    }
    return kept | biases


def token_classifier(base):
    """The base as `bert` inside another model."""
    model = BertForTokenClassification(base.config)
    model.bert = base
    return model


def with_pooler(base):
    base.pooler = BertPooler(base.config)
    return base


QV = ["query", "value"]
QUERY = "base_model.model.encoder.layer.1.attention.self.query."


def lora(targets, **more):
    return LoraConfig(**({"r": 4, "lora_alpha": 6.0, "target_modules": targets} | more))


def bert_works():
    norm = {"modules_to_save": ["LayerNorm"]}
    newer = {"alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False, "use_bdlora": None}
    yield "lora", lora(QV)
    yield "lora_regex", lora(r".*layer\.1\.(attention\.self\.(key|value)|output\.dense)")
    yield "lora_all_linear", lora("all-linear")
    yield "lora_all_linear_word", lora("all-linear"), {"edit": settings(target_modules="all-linear")}
    yield "lora_exclude", lora(["query", "dense"], exclude_modules=["attention.output.dense"])
    yield "lora_exclude_regex", lora(["query", "dense"], exclude_modules=r".*layer\.0\..*")
    yield "lora_layers", lora(QV, layers_to_transform=[1], layers_pattern="layer")
    yield "lora_layers_number", lora(QV, layers_to_transform=0)
    yield "lora_rank_stabilised", lora(QV, use_rslora=True, init_lora_weights="gaussian")
    ranks = {r"encoder\.layer\.0\..*query": 2, "layer.1.attention.self.value": 6}
    alphas = {"query": 3, r"layer\.[01]\.attention\.self\.value": 10}
    yield "lora_patterns", lora(QV, rank_pattern=ranks, alpha_pattern=alphas)
    yield "lora_bias_only", lora(["query", "intermediate.dense"], bias="lora_only")
    yield "lora_bias_only_newer", lora(["query"], bias="lora_only"), {"edit": tensors(with_biases)}
    yield "lora_bias_all", lora(["query"], bias="all")
    yield "lora_save_norm", lora(QV, **norm)
    yield "lora_save_linear", lora(QV, modules_to_save=["layer.1.output.dense"])
    yield "lora_embedding", lora(["word_embeddings", "query"])
    yield "lora_position_embedding", lora(["position_embeddings"])
    yield "lora_bf16", lora(QV), {"edit": tensors(lambda kept, _: {k: v.bfloat16() for k, v in kept.items()})}
    yield "lora_fan_in", lora(QV), {"edit": settings(fan_in_fan_out=True)}
    yield "lora_newer_config", lora(QV), {"edit": settings(peft_version="0.20.0", **newer)}
    yield "lora_of_token_classifier", lora(QV), {"outer": token_classifier}
    yield "dora", lora(["query", "intermediate.dense"], use_dora=True)
    yield "dora_rank_stabilised", lora(QV, use_dora=True, use_rslora=True, rank_pattern={"query": 2})
    yield "ia3", IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"])
    yield "ia3_outputs", IA3Config(target_modules=["key", "value"], feedforward_modules=[])
    yield "vera", VeraConfig(r=6, target_modules=["query", "intermediate.dense"])
    yield "hra", HRAConfig(r=4, target_modules=["query", "output.dense"])
    yield "hra_layers", HRAConfig(r=2, target_modules=QV, layers_to_transform=[0], **norm)
    yield "ln_tuning", LNTuningConfig(target_modules=["LayerNorm"])


def llama_works():
    yield "lora", lora(["q_proj", "v_proj"])
    yield "lora_all_linear", lora("all-linear")
    yield "lora_all_linear_word", lora("all-linear"), {"edit": settings(target_modules="all-linear")}
    yield "lora_head", lora(["lm_head", "q_proj"])
    yield "lora_embedding", lora(["embed_tokens", "q_proj"])
    yield "lora_save_head", lora(["q_proj"], modules_to_save=["lm_head"])
    yield "lora_save_embedding", lora(["q_proj"], modules_to_save=["embed_tokens"])
    yield "lora_save_norm", lora(["k_proj"], modules_to_save=["norm", "input_layernorm"])
    yield "lora_causal", lora(["k_proj", "down_proj"], task_type="CAUSAL_LM", lora_dropout=0.1)
    yield "lora_of_inner_model", lora(["q_proj", "up_proj"]), {"outer": lambda base: base.model}
    yield "dora", lora(["q_proj", "down_proj"], use_dora=True)
    yield "ia3", IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    yield "vera", VeraConfig(r=6, target_modules=["q_proj", "v_proj", "down_proj"])
    yield "hra", HRAConfig(r=4, target_modules=["q_proj", "down_proj"])
    yield "ln_tuning", LNTuningConfig(target_modules=["input_layernorm", "norm"])


def conv_works():
    yield "lora", lora(["conv1", "conv2"])
    yield "lora_all", lora(r".*(conv\d?|head)", r=3)
    yield "lora_rank_stabilised", lora(["conv"], use_rslora=True)
    yield "lora_save_head", lora(["conv1"], modules_to_save=["head"])
    yield "lora_save_norm", lora(["conv1"], modules_to_save=["norm1"])
    yield "ln_tuning", LNTuningConfig(target_modules=["norm1", "norm2"])
    yield "dora", lora(["conv1", "conv2"], use_dora=True)
    yield "ia3", IA3Config(target_modules=["conv1", "conv2"], feedforward_modules=["conv2"])
    yield "hra", HRAConfig(r=4, target_modules=["conv1", "head"])


def published_works(targets, ends):
    yield "lora", lora(targets, r=8)
    yield "lora_patterns", lora(targets, use_rslora=True, rank_pattern={rf".*\.1\..*{targets[0]}": 2})
    yield "dora", lora(targets[:1], r=8, use_dora=True)
    yield "ia3", IA3Config(target_modules=[*targets, ends], feedforward_modules=[ends])
    yield "vera", VeraConfig(r=16, target_modules=[targets[0], ends])
    yield "hra", HRAConfig(r=4, target_modules=targets)


def tied_works():
    yield "lora", lora(["q_proj", "v_proj"])


def refused():
    """Model, name, config, word and what else a case says."""
    llama = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    yield "llama", "prompt_tuning", PromptTuningConfig(**llama), "PROMPT_TUNING"
    yield "llama", "prefix_tuning", PrefixTuningConfig(**llama), "PREFIX_TUNING"
    adalora = AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=QV)
    yield "bert", "adalora", adalora, "ADALORA"
    yield "bert", "loha", LoHaConfig(r=2, target_modules=QV), "LOHA"
    for key, value, word in [
        ("target_parameters", ["query.weight"], "target_parameters"),
        ("use_qalora", True, "qalora"),
        ("alora_invocation_tokens", [5, 6], "alora_invocation_tokens"),
        ("init_lora_weights", "olora", "olora"),
    ]:
        yield "bert", key, lora(QV), word, {"edit": settings(**{key: value})}
    yield "bert", "lora_bias", lora(QV, lora_bias=True), "lora_bias"
    yield "bert", "pissa", lora(QV, init_lora_weights="pissa"), "pissa"
    yield "llama", "layer_replication", lora(["q_proj"], layer_replication=[[0, 2], [1, 2]]), "layer_replication"
    tokens = {"embed_tokens": [1, 2]}
    yield "llama", "trainable_tokens", lora(["q_proj"], trainable_token_indices=tokens), "trainable_token_indices"
    yield "bert", "vera_unsaved", VeraConfig(r=6, target_modules=QV, save_projection=False), "save_projection"
    yield "bert", "hra_orthogonal", HRAConfig(r=4, target_modules=QV, apply_GS=True), "apply_GS"
    yield "llama_tied", "lora_embedding", lora(["embed_tokens"]), "tie"
    yield "llama_tied", "lora_save_embedding", lora(["q_proj"], modules_to_save=["embed_tokens"]), "tie"
    yield "llama_tied", "lora_head", lora(["lm_head"]), "lm_head"
    yield "bert", "pooler", lora(["query", "pooler.dense"]), "pooler", {"outer": with_pooler}
    yield "bert", "truncated", lora(QV), TENSORS, {"edit": truncate}
    yield "bert", "pickled", lora(QV), "safetensors", {"edit": pickle}
    yield "bert", "tensor_missing", lora(QV), QUERY, {"edit": drop(QUERY + "lora_B.weight")}
    yield "bert", "module_missing", lora(QV), "layer.1.attention.self.query", {"edit": drop(QUERY + "lora_A.weight")}
    extra = QUERY.replace("query", "key") + "lora_A.weight"
    yield "bert", "tensor_extra", lora(QV), "layer.1.attention.self.key", {"edit": tensors(lambda kept, _: kept | {extra: torch.zeros(4, 32)})}
    key = QUERY + "lora_A.weight"
    turned = tensors(lambda kept, _: kept | {key: kept[key].T})
    yield "bert", "shape", lora(QV), "layer.1.attention.self.query", {"edit": turned}
    saved = lora(["q_proj"], modules_to_save=["lm_head"])
    yield "llama", "saved_missing", saved, "lm_head", {"edit": drop("lm_head.weight")}
    saved, end = lora(QV, modules_to_save=["LayerNorm"]), "encoder.layer.0.output.LayerNorm"
    yield "bert", "saved_bias_missing", saved, end, {"edit": drop(f"{end}.bias")}
    yield "bert", "dora_embedding", lora(["word_embeddings"], use_dora=True), "word_embeddings"
    yield "bert", "inner_folder", lora(QV), "other", {"edit": nest}
    # Above the head's three outputs.
    yield "conv", "lora_wide", lora(["conv2", "head"]), "rank"
    yield "bert", "no_config", lora(QV), CONFIG, {"edit": lambda folder, _: (folder / CONFIG).unlink()}


def cases():
    """All cases of the bases that can be had."""
    works = {
        "bert": bert_works(),
        "llama": llama_works(),
        "llama_tied": tied_works(),
        "conv": conv_works(),
        "minilm": published_works(QV, "intermediate.dense"),
        "smollm2": published_works(["q_proj", "v_proj"], "down_proj"),
    }
    for model, listed in works.items():
        if present(model):
            for name, config, *more in listed:
                yield Case(model, name, config, **(more[0] if more else {}))
    for model, name, config, word, *more in refused():
        yield Case(model, name, config, word, **(more[0] if more else {}))
