"""Code of a method's authors, read out of a clone at a fixed commit and run as it is. It never becomes a part of this repository.

`ACCLIMATE_AUTHORS` names the folder of clones: for `owner/name` the clone (bare or not) is `name` in it.
"""

import ast
import math
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import torch


def take(repository, commit, path, names, **given):
    """The classes and functions of these names out of a file, beside torch's usual names and what is `given`."""
    folder = os.environ.get("ACCLIMATE_AUTHORS")
    clone = folder and Path(folder) / repository.split("/")[1]
    if not clone or not clone.exists():
        raise SystemExit(
            f"set ACCLIMATE_AUTHORS to a folder and clone https://github.com/{repository} into it; commit {commit}"
        )
    text = subprocess.run(["git", "-C", clone, "show", f"{commit}:{path}"], check=True, capture_output=True, text=True)
    wanted = [node for node in ast.parse(text.stdout).body if getattr(node, "name", None) in names]
    missing = set(names) - {node.name for node in wanted}
    assert not missing, f"{path} of {repository} lacks {missing}"
    space = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "math": math} | given
    exec(compile(ast.Module(wanted, []), path, "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})
