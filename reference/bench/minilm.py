"""MiniLM: 16 rows of up to 128 tokens, read, and trained with LoRA of rank 8 on query and value, a head for three classes, D-Adapt Adam."""

import peft
import torch
import transformers
from cases import asset
from dadaptation import DAdaptAdam
from transformers import AutoModel

WHO = f"PyTorch {torch.__version__.split('+')[0]} + transformers {transformers.__version__} + peft {peft.__version__}"
THREADS = torch.get_num_threads()


def read(dtype=torch.float32):
    return AutoModel.from_pretrained(asset("minilm"), dtype=dtype, local_files_only=True)


def rows(padded):
    """Ids and mask; lengths are all alike, or fall to half."""
    torch.manual_seed(5)
    lengths = torch.tensor([128 - row * 64 // 15 if padded else 128 for row in range(16)])
    mask = (torch.arange(128) < lengths[:, None]).long()
    return torch.randint(1000, 20000, (16, 128)) * mask, mask


def reading(padded):
    model, (ids, mask) = read().eval(), rows(padded)

    def run():
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

    return run


def training(padded, dtype=torch.float32, autocast=False):
    """`dtype` is that of the frozen weights; peft keeps those it trains in f32."""
    # No dropout on either side; gradients flow in this mode too.
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
    model, head, (ids, mask) = peft.get_peft_model(read(dtype), config).eval(), torch.nn.Linear(384, 3), rows(padded)
    trained = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
    optimiser, labels = DAdaptAdam(trained, lr=1.0), torch.arange(16) % 3
    weight = (mask / mask.sum(1, keepdim=True))[:, :, None]

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        loss = torch.nn.functional.cross_entropy(head((states.float() * weight).sum(1)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return run


forward, forward_padded = (lambda _: reading(False)), (lambda _: reading(True))
step, step_padded = (lambda _: training(False)), (lambda _: training(True))
step_autocast, step_bf16 = (lambda _: training(False, autocast=True)), (lambda _: training(False, dtype=torch.bfloat16))
