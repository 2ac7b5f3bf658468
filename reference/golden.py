"""Writes golden files: a header that says where the numbers come from, then the cases.

Every script in the sub-folders builds its cases with `tensor` and ends in `write`. Numbers are f64 and are printed so
that they read back exactly.
"""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def tensor(t):
    """A tensor as shape and flat row-major data."""
    t = torch.as_tensor(t).detach()
    return {"shape": list(t.shape), "data": t.flatten().tolist()}


def header(script, package, seed, tolerance, **more):
    """What every golden file starts with. `package` is a distribution's name, or a sentence where none exists."""
    script = Path(script).resolve()
    try:
        source, version = f"package {package}", importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        source, version = package, None
    return {
        "source": source,
        "version": version,
        "commit": None,
        "script": str(script.relative_to(ROOT)),
        "script_sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        "seed": seed,
        "tolerance": tolerance,
        **more,
    }


def dump(value, indent=0):
    """JSON with one key a line, and tensors and lists of numbers on one line."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value and "shape" not in value:
        inner = ",\n".join(f"{pad}{json.dumps(k)}: {dump(v, indent + 1)}" for k, v in value.items())
        return "{\n" + inner + "\n" + " " * indent + "}"
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        inner = ",\n".join(pad + dump(v, indent + 1) for v in value)
        return "[\n" + inner + "\n" + " " * indent + "]"
    return json.dumps(value, allow_nan=False)


def write(name, head, cases, tensors=None):
    """Writes `golden/<name>.json`, and `golden/<name>.safetensors` where `tensors` (name to tensor) are given."""
    path = ROOT / "golden" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if tensors is not None:
        from safetensors.torch import save_file

        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path.with_suffix(".safetensors"))
    path.write_text(dump({"header": head, "cases": cases}) + "\n")
    print(f"wrote {path.relative_to(ROOT)} ({path.stat().st_size} bytes, {len(cases)} cases)")
