"""Reading and merging an adapter of SmolLM2 with peft."""

import copy

import peft
import torch
from cases import CONFIG, asset, present, read_base
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
WHO = f"peft {peft.__version__}"
THREADS = torch.get_num_threads()


def folders(work):
    """SmolLM2 in f32 and an adapter of rank 16 on all its linear modules; made where they are missing."""
    model, adapter = work / "bench/model", work / "bench/adapter"
    if not (adapter / CONFIG).exists():
        if not present("smollm2"):
            raise SystemExit(f"{asset('smollm2')} is missing; fetch it with `acclimate assets get smollm2`")
        base = read_base(work / "models", "smollm2")
        base.save_pretrained(model)
        adapted = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.copy_(0.02 * torch.randn(p.shape, generator=rng))
        adapted.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)
    return model, adapter


def read(place):
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


class Bare:
    """The base, from which the adapter that was loaded last is taken away, with what would make the next one count as a second."""

    def __init__(self, base):
        self.base, self.adapted = base, None

    def __call__(self):
        if self.adapted is not None:
            self.base, self.adapted = self.adapted.unload(), None
            del self.base.peft_config
        return self.base


def loading(work, **how):
    place, folder = folders(work)
    bare = Bare(read(place))

    def run(base):
        bare.adapted = PeftModel.from_pretrained(base, folder, **how)

    return bare, run


def load(work):
    return loading(work)


def load_without_init(work):
    return loading(work, low_cpu_mem_usage=True)


def load_second(work):
    place, folder = folders(work)
    bare = Bare(read(place))

    def first():
        bare.adapted = PeftModel.from_pretrained(bare(), folder)

    return first, lambda _: bare.adapted.load_adapter(folder, "second")


def merge(work):
    place, folder = folders(work)
    base = read(place)
    stored = copy.deepcopy(base.state_dict())

    def adapted():
        if hasattr(base, "peft_config"):
            del base.peft_config
        base.load_state_dict(stored)
        return PeftModel.from_pretrained(base, folder)

    return adapted, lambda model: model.merge_and_unload()


def nothing(work):
    """For the comparison of whole programs, which needs the folders and this side's name alone."""
    folders(work)
    return lambda: None


def merge_program(place, adapter, out):
    PeftModel.from_pretrained(read(place), adapter).merge_and_unload().save_pretrained(out)
