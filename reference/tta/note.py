"""NOTE by its authors' norm and reservoir (TaesikGong/NOTE, utils/iabn.py and utils/memory.py) in f64. Seed 2.

Around them, transcribed from learner/note.py: rows are answered in inference mode and join the reservoir under the predicted class; after
`update_every` rows the memory passes in training mode, which moves the running averages, and one step lowers the mean entropy. Their
entropy is also divided by the number of classes; here it is not. The reservoir draws from acclimate's random streams, one for each row.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from iabn_layers import COMMIT, PATH, REPOSITORY, converted
from streams import stream, uniform
from tta_stream import batches, case, model


class Draws:
    """The functions of `random` that the reservoir asks for; `row` begins a stream."""

    def row(self, seed, number):
        self.words = stream(seed, "reservoir", number)

    def uniform(self, low, high):
        return low + (high - low) * uniform(self.words)

    def randrange(self, low, high):
        return low + int(uniform(self.words) * (high - low))

    def choice(self, among):
        return among[self.randrange(0, len(among))]


def run(name, capacity, update_every, momentum=0.01, deviations=4.0, temperature=1.0, lr=1e-3, seed=0):
    net, named = model(statistics="stored")
    net = converted(net, deviations, momentum)
    trained = {path.replace("_bn.", ""): p for path, p in net.named_parameters() if "_bn" in path}
    assert list(trained) == list(named)
    opt, draws = torch.optim.Adam(trained.values(), lr=lr), Draws()
    conf = SimpleNamespace(args=SimpleNamespace(opt={"num_class": 3}))
    memory = take(REPOSITORY, COMMIT, "utils/memory.py", ["PBRS"], random=draws, conf=conf).PBRS(capacity)
    out, seen, waiting = [], 0, 0
    for x in batches:
        net.eval()
        with torch.no_grad():
            logits = net(x)
        for row, best in zip(x, logits.argmax(1).tolist()):
            draws.row(seed, seen)
            memory.add_instance([row, best, 0, 0, 0])
            seen, waiting = seen + 1, waiting + 1
        if waiting >= update_every:
            waiting = 0
            net.train()
            p = net(torch.stack(memory.get_memory()[0])) / temperature
            opt.zero_grad()
            (-p.softmax(1) * p.log_softmax(1)).sum(1).mean().backward()
            opt.step()
        state = {}
        for path, norm in net.named_modules():
            if path.endswith("._bn"):
                state[f"averages/{path[:-4]}.mean"] = norm.running_mean.clone()
                state[f"averages/{path[:-4]}.variance"] = norm.running_var.clone()
        out.append({"logits": logits, "params": {k: p.clone() for k, p in trained.items()}, "state": state})
    settings = {"capacity": capacity, "update_every": update_every, "momentum": momentum, "deviations": deviations}
    optimiser = {"method": "adamw", "settings": {"lr": lr}}
    host = {"train": "norm_tuning", "optimiser": optimiser}
    return case(name, settings | {"temperature": temperature, "seed": seed}, host, out)


cases = [
    run("each_batch", capacity=12, update_every=8),
    run("every_other", capacity=7, update_every=16, momentum=0.3, deviations=0.5, temperature=2.0, seed=5),
]
source = f"{REPOSITORY} ({PATH}, utils/memory.py), with a transcription of learner/note.py around it"
write("tta/note", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-3}, commit=COMMIT), cases)
