"""The Python sides of `cargo xtask bench peers`: torch 2.8.0, transformers 4.57.1, peft 0.17.1, dadaptation 3.2, llama-cpp-python 0.3.16,
pot 0.9.7.post1, skada 0.4.0, scikit-learn 1.7.2.

    python reference/bench/side.py NAME WORK                one piece of work, done once for every line on stdin
    python reference/bench/side.py merge MODEL ADAPTER OUT  a language model merged and written, as a whole process

The first line it prints says who it is and how many threads it uses, or which package is missing; then comes a line with the seconds
for every line it reads. A piece of work is a function of the folder WORK in one of the modules beside this one; it gives what is timed,
or that and what comes before it each time.
"""

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))
warnings.filterwarnings("ignore")

# Name of the work: module and function.
WORKS = {
    "minilm forward": ("minilm", "forward"),
    "minilm forward padded": ("minilm", "forward_padded"),
    "minilm step": ("minilm", "step"),
    "minilm step padded": ("minilm", "step_padded"),
    "minilm step autocast": ("minilm", "step_autocast"),
    "minilm step bf16": ("minilm", "step_bf16"),
    "smollm2 step": ("smollm2", "step"),
    "smollm2 step autocast": ("smollm2", "step_autocast"),
    "smollm2 step bf16": ("smollm2", "step_bf16"),
    "smollm2 write": ("smollm2", "write"),
    "smollm2 write llama.cpp": ("llama_cpp_side", "write"),
    "dadapt_adam": ("optimiser", "dadapt_adam"),
    "sinkhorn": ("transport", "sinkhorn"),
    "exact transport": ("transport", "exact"),
    "kmm": ("weights", "kmm"),
    "kliep": ("weights", "kliep"),
    "spci": ("stream", "spci"),
    "resnet18 forward": ("vision_side", "resnet18_forward"),
    "resnet18 tent": ("vision_side", "resnet18_tent"),
    "efficientnet forward": ("vision_side", "efficientnet_forward"),
    "efficientnet tent": ("vision_side", "efficientnet_tent"),
    "load": ("patches", "load"),
    "load without init": ("patches", "load_without_init"),
    "load second": ("patches", "load_second"),
    "merge": ("patches", "merge"),
    "merge program": ("patches", "nothing"),
}


def say(**line):
    print(json.dumps(line), flush=True)


def main():
    if sys.argv[1] == "merge" and len(sys.argv) == 5:
        return importlib.import_module("patches").merge_program(*sys.argv[2:])
    name, work = sys.argv[1], Path(sys.argv[2])
    module, function = WORKS[name]
    try:
        module = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return say(who=name, threads=0, missing=error.name)
    made = getattr(module, function)(work)
    prepare, action = made if isinstance(made, tuple) else (None, made)
    say(who=module.WHO, threads=module.THREADS)
    for _ in sys.stdin:
        given = (prepare(),) if prepare else ()
        start = time.perf_counter()
        action(*given)
        say(seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main()
