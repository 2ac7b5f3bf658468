"""Folders that peft 0.17.1 writes for tiny models, with what it answers: read again in `crates/peft/tests/folders.rs`. Seeds 5 and 6.

They are a few of the cases in `cases.py`, made by `peft_side.py make`; the rest run in `cargo xtask interop peft`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import ROOT, header

CASES = [
    "bert-lora_patterns", "bert-lora_bias_all", "bert-lora_embedding", "bert-lora_of_token_classifier", "bert-dora",
    "bert-ia3", "bert-ln_tuning", "llama-lora_save_head", "llama-lora_of_inner_model", "llama-vera", "llama-hra",
    "conv-dora", "conv-ia3", "conv-hra",
]
KEPT = ["adapter_config.json", "adapter_model.safetensors", "case.json", "io.safetensors"]

out = ROOT / "golden" / "interop"
shutil.rmtree(out, ignore_errors=True)
with tempfile.TemporaryDirectory() as work:
    side = Path(__file__).with_name("peft_side.py")
    subprocess.run([sys.executable, side, "make", work, *CASES], check=True, env={"ACCLIMATE_CACHE": work, "PATH": ""})
    for model in ["bert", "llama", "conv"]:
        for name in ["config.json", "model.safetensors"]:
            (out / "models" / model).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(work) / "models" / model / name, out / "models" / model / name)
    for case in CASES:
        (out / case).mkdir()
        for name in KEPT:
            shutil.copyfile(Path(work) / "from_peft" / case / name, out / case / name)
        config = out / case / "adapter_config.json"
        settings = json.loads(config.read_text())
        settings["base_model_name_or_path"] = f"models/{case.split('-')[0]}"
        config.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
head = header(__file__, "peft", 5, {"f32": 1e-5})
(out / "folders.json").write_text(json.dumps({"header": head, "cases": CASES}, indent=1) + "\n")
print(f"wrote golden/interop ({len(CASES)} folders)")
