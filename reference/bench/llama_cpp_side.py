"""SmolLM2 from its GGUF file by llama.cpp: 64 words after a prompt of 64, the likeliest each time."""

import os
import random

import llama_cpp
from cases import asset

WHO = f"llama.cpp (llama-cpp-python {llama_cpp.__version__}), the same GGUF"
THREADS = len(os.sched_getaffinity(0))


def write(_):
    file = str(asset("smollm2") / "model.gguf")
    model = llama_cpp.Llama(file, n_ctx=256, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
    rng = random.Random(5)
    prompt = [rng.randrange(1000, 41000) for _ in range(64)]

    def run():
        words = model.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True)
        # Past the word that would end it, like the others.
        assert len([next(words) for _ in range(64)]) == 64

    # Without this it would find the prompt in its cache.
    return model.reset, lambda _: run()
