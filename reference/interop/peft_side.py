"""The Python side of `cargo xtask interop peft`: peft 0.17.1, transformers 4.57.1, torch 2.8.0.

    python reference/interop/peft_side.py make WORK [MODEL-CASE]…   base models, and folders that peft writes
    python reference/interop/peft_side.py check WORK                folders that acclimate wrote, read and merged by peft

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
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
import torch
from cases import cases, inputs, read_base, run, write_bases
from peft import PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "check"):
        command = commands.add_parser(name)
        command.add_argument("work", type=Path)
        if name == "make":
            command.add_argument("names", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.filterwarnings("ignore")
    match given.command:
        case "make":
            make(given.work, given.names)
        case "check":
            check(given.work)


if __name__ == "__main__":
    main()
