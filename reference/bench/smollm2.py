"""SmolLM2 in f32 or bf16: a step of LoRA of rank 8 on the projections of query and value, and writing on."""

import peft
import torch
import transformers
from dadaptation import DAdaptAdam
from patches import folders
from transformers import AutoModelForCausalLM

WHO = f"PyTorch {torch.__version__.split('+')[0]} + transformers {transformers.__version__} + peft {peft.__version__}"
THREADS = torch.get_num_threads()


def read(work, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folders(work)[0], dtype=dtype)


def training(work, dtype=torch.float32, autocast=False):
    """Four texts of 128 tokens, the cross-entropy of every next word; `dtype` is that of the frozen weights."""
    torch.manual_seed(5)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model, ids = peft.get_peft_model(read(work, dtype), config).eval(), torch.randint(1000, 41000, (4, 128))
    optimiser = DAdaptAdam([p for p in model.parameters() if p.requires_grad], lr=1.0)

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return run


def step(work):
    return training(work)


def step_autocast(work):
    return training(work, autocast=True)


def step_bf16(work):
    return training(work, dtype=torch.bfloat16)


def write(work):
    """64 words after a prompt of 64, the likeliest each time."""
    torch.manual_seed(5)
    model, ids = read(work).eval(), torch.randint(1000, 41000, (1, 64))
    mask = torch.ones_like(ids)

    def run():
        with torch.no_grad():
            out = model.generate(ids, attention_mask=mask, min_new_tokens=64, max_new_tokens=64, do_sample=False, pad_token_id=0)
        assert out.shape[1] == 128, out.shape

    return run
