"""The Python side of `cargo xtask interop peft` and `cargo xtask bench peers`: peft 0.17.1, transformers 4.57.1, torch 2.8.0.

    python reference/interop/peft_side.py make WORK [MODEL-CASE]…   base models, and folders that peft writes
    python reference/interop/peft_side.py check WORK                folders that acclimate wrote, read and merged by peft
    python reference/interop/peft_side.py bench WORK                times on request, one word a line on stdin
    python reference/interop/peft_side.py merge MODEL ADAPTER OUT   a language model merged and written, as a whole process

`make` writes WORK/models/MODEL and, for every case in `cases.py`, WORK/from_peft/MODEL-CASE: what peft saves, `case.json`
and `io.safetensors` (`ids` and `mask`, or `images`; `base` and `adapted`). The adapters' tensors stand at their start plus
seeded normals, whose scale is found by halving and doubling so that the largest output moves by a twentieth to four fifths of
the base's largest. `adapted` is what peft answers after it has read the folder back, as its users would get it: 0.17.1 does not
save the biases that `bias="lora_only"` trains, which `case.json` tells as `forgotten`.

`check` reads WORK/from_acclimate/MODEL-CASE the same way and prints a JSON line a case: the largest difference from `adapted`
there divided by its largest number, plain and merged, and every warning, missing key and unexpected key.
"""

import argparse
import copy
import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
import torch
from cases import CONFIG, asset, cases, inputs, present, read_base, run, write_bases
from dadaptation import DAdaptAdam
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()


def change(a, b):
    """The largest difference over the largest number of `b`, which may have its positions in one axis."""
    return ((a - b.reshape(a.shape)).abs().max() / b.abs().max()).item()


def fill(model, answer, base):
    """Moves every trained tensor by seeded normals of one scale that changes the answer clearly."""
    trained = [p for p in model.parameters() if p.requires_grad]
    starts = [p.detach().clone() for p in trained]
    rng = torch.Generator().manual_seed(5)
    normals = [torch.randn(p.shape, generator=rng) for p in trained]
    scale = 0.25
    for _ in range(40):
        with torch.no_grad():
            for p, start, normal in zip(trained, starts, normals):
                p.copy_(start + scale * normal)
        moved = change(answer(), base)
        if 0.05 <= moved <= 0.8:
            return moved
        scale *= 0.5 if not moved <= 0.8 else 1.5
    raise SystemExit(f"no scale changes the outputs by 5 to 80 %: {moved} at {scale}")


class Bases:
    """Base models by name, read once and copied for every use: peft changes modules in place."""

    def __init__(self, work):
        self.models, self.read = work / "models", {}

    def __call__(self, name):
        if name not in self.read:
            self.read = {name: read_base(self.models, name)}
        return copy.deepcopy(self.read[name])


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def make(work, names):
    shutil.rmtree(work / "from_peft", ignore_errors=True)
    (work / "from_peft").mkdir(parents=True)
    write_bases(work / "models")
    bases = Bases(work)
    for case in cases():
        folder = work / "from_peft" / f"{case.model}-{case.name}"
        if names and folder.name not in names:
            continue
        torch.manual_seed(6)
        base, batch = bases(case.model), inputs(case.model)
        about = {"model": case.model, "case": case.name, "expect": "refused" if case.word else "works"}
        if case.word:
            model = get_peft_model(case.outer(base), case.config)
            save(model, folder)
            case.edit(folder, model)
            about["word"] = case.word
        else:
            before = run(case.model, base, batch)
            model = get_peft_model(case.outer(base), case.config).eval()
            answer = lambda: run(case.model, base, batch)
            fill(model, answer, before)
            save(model, folder)
            case.edit(folder, model)
            again = bases(case.model)
            PeftModel.from_pretrained(case.outer(again), folder)
            after = run(case.model, again, batch)
            about["change"] = change(after, before)
            assert 0.01 <= about["change"] <= 1, (case, about)
            # A hundredth of the change: far above what rounding to bfloat16 leaves.
            about["forgotten"] = change(answer(), after) > 0.01 * about["change"]
            io = batch | {"base": before, "adapted": after}
            save_file({k: v.float().contiguous() for k, v in io.items()}, folder / "io.safetensors")
        (folder / "case.json").write_text(json.dumps(about, indent=2) + "\n")
        print(json.dumps(about), flush=True)


def read_back(base, folder):
    """The base with the folder's adapter, and all that peft has to say against it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder).eval()
        # Unexpected keys are told by no warning; the same tensors put in once more give the list.
        stored = load_peft_weights(folder)
        result = set_peft_model_state_dict(model, dict(stored))
    said = [str(w.message) for w in caught]
    for key in result.unexpected_keys:
        # A slip of 0.17.1: it passes over VeRA's stored projections, its own folders' too, and draws them anew from a key.
        drawn = getattr(model.base_model, key.removeprefix("base_model."), None) if ".vera_" in key else None
        if drawn is None:
            said.append(f"unexpected key {key}")
        elif not torch.equal(drawn["default"], stored[key]):
            said.append(f"{key} is passed over for another, drawn from `projection_prng_key`")
    return model, said


def check(work):
    bases = Bases(work)
    for folder in sorted(file.parent for file in (work / "from_acclimate").glob("*/io.safetensors")):
        name, case = folder.name.split("-", 1)
        io = load_file(folder / "io.safetensors")
        found = {"model": name, "case": case}
        try:
            base = bases(name)
            model, found["warnings"] = read_back(base, folder)
            found["change"] = change(run(name, bases(name), io), io["adapted"])
            found["difference"] = change(run(name, base, io), io["adapted"])
            found["merged"] = change(run(name, model.merge_and_unload(), io), io["adapted"])
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(found), flush=True)


def bench_folders(work):
    """SmolLM2 in f32 and an adapter of rank 16 on all its linear modules; made where they are missing."""
    model, adapter = work / "bench/model", work / "bench/adapter"
    if not (adapter / CONFIG).exists():
        base = read_base(work / "models", "smollm2")
        base.save_pretrained(model)
        adapted = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.copy_(0.02 * torch.randn(p.shape, generator=rng))
        save(adapted, adapter)
    return model, adapter


def bare(model):
    """The base without the adapter, and without what would make the next one count as a second."""
    base = model.unload()
    del base.peft_config
    return base


def timed(what, action):
    start = time.perf_counter()
    made = action()
    print(json.dumps({"what": what, "seconds": time.perf_counter() - start}), flush=True)
    return made


class Minilm:
    """MiniLM with LoRA of rank 8 on query and value and a head for three classes, 16 rows of 128 tokens, D-Adapt Adam."""

    def __init__(self):
        torch.manual_seed(5)
        base = AutoModel.from_pretrained(asset("minilm"), dtype=torch.float32, local_files_only=True)
        # No dropout on either side; gradients flow in this mode too.
        self.model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])).eval()
        self.head = torch.nn.Linear(384, 3)
        trained = [p for p in self.model.parameters() if p.requires_grad] + list(self.head.parameters())
        self.optimiser = DAdaptAdam(trained, lr=1.0)
        self.ids = torch.randint(1000, 20000, (16, 128))
        self.mask = torch.ones_like(self.ids)
        self.labels = torch.arange(16) % 3

    def forward(self):
        with torch.no_grad():
            return self.model(input_ids=self.ids, attention_mask=self.mask).last_hidden_state

    def step(self):
        states = self.model(input_ids=self.ids, attention_mask=self.mask).last_hidden_state
        loss = torch.nn.functional.cross_entropy(self.head(states.mean(1)), self.labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


def bench(work):
    if not present("smollm2"):
        raise SystemExit(f"{asset('smollm2')} is missing; fetch it with `acclimate assets fetch smollm2`")
    warnings.filterwarnings("ignore")
    place, folder = bench_folders(work)
    base = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    stored = copy.deepcopy(base.state_dict())
    about = {"model": str(place), "adapter": str(folder), "threads": torch.get_num_threads()}
    about["minilm"] = str(asset("minilm")) if present("minilm") else None
    minilm = None
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        what = line.strip()
        match what:
            case "load" | "load_without_init":
                lazy = what != "load"
                model = timed(what, lambda: PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=lazy))
                base = bare(model)
            case "load_adapter":
                model = PeftModel.from_pretrained(base, folder)
                timed(what, lambda: model.load_adapter(folder, "second"))
                base = bare(model)
            case "merge":
                model = PeftModel.from_pretrained(base, folder)
                base = timed(what, model.merge_and_unload)
                del base.peft_config
                base.load_state_dict(stored)
            case "minilm_forward" | "minilm_step":
                minilm = minilm or Minilm()
                timed(what, minilm.step if what == "minilm_step" else minilm.forward)
            case _:
                raise SystemExit(f"`{what}` is nothing that is timed")


def merge(place, adapter, out):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), adapter)
    model.merge_and_unload().save_pretrained(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "check", "bench"):
        command = commands.add_parser(name)
        command.add_argument("work", type=Path)
        if name == "make":
            command.add_argument("names", nargs="*")
    merging = commands.add_parser("merge")
    for name in ("model", "adapter", "out"):
        merging.add_argument(name, type=Path)
    given = parser.parse_args()
    if given.command in ("make", "check"):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        warnings.filterwarnings("ignore")
    match given.command:
        case "make":
            make(given.work, given.names)
        case "check":
            check(given.work)
        case "bench":
            bench(given.work)
        case "merge":
            merge(given.model, given.adapter, given.out)


if __name__ == "__main__":
    main()
