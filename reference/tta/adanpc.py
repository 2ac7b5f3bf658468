"""AdaNPC by its authors' classes (yfzhang114/AdaNPC, domainbed/knn.py and adapt_algorithms.py) in f64. Seed 2.

The memory is filled with the reference features, without the one random entry that the authors' script keeps. The `double_softmax` cases run
their step as it is. The others replace its confidence by the largest vote; with `self_share` the oldest entries of the stream are cut off.
Expected are the logarithms of their scores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import CLASSES, batches, case, features, model, reference

REPOSITORY, COMMIT = "yfzhang114/AdaNPC", "29fe27abf4f062a0fb0d7e33acae83cb5a94f374"
torch.set_default_dtype(torch.float64)
MomentumQueue = take(REPOSITORY, COMMIT, "domainbed/knn.py", ["MomentumQueue"]).MomentumQueue
AdaNPC = take(REPOSITORY, COMMIT, "domainbed/adapt_algorithms.py", ["AdaNPC"], Algorithm=torch.nn.Module).AdaNPC


def run(name, neighbours=10, temperature=0.1, threshold=0.0, self_share=1.0, compat="none", ball=None, kind="batch"):
    net, _ = model(kind, train="none", statistics="stored")
    method = AdaNPC.__new__(AdaNPC)
    torch.nn.Module.__init__(method)
    method.beta = threshold
    method.classifier = queue = MomentumQueue(16, 1, temperature, neighbours, 3, 1.1 if ball is None else ball)
    queue.memory, queue.memory_label = queue.memory[1:], queue.memory_label[1:]
    for x in reference:
        queue.extend_test(features(net, x)[0], torch.tensor(CLASSES))
    given = len(queue.memory)
    out, balls = [], 0
    for x in batches:
        phi, _ = features(net, x)
        near = torch.nn.functional.normalize(phi) @ queue.memory.t()
        balls += ball is not None and (near.max(1)[0].min() > ball).item()
        if compat == "double_softmax":
            p = method.forward_and_adapt(phi)
        else:
            p = queue(phi)
            vote, best = p.max(1)
            sure = vote - 1e-5 >= threshold
            queue.extend_test(phi[sure], best[sure])
        if self_share < 1:
            more = max(len(queue.memory) - given - int(given * self_share / (1 - self_share)), 0)
            queue.memory = torch.cat([queue.memory[:given], queue.memory[given + more :]])
            queue.memory_label = torch.cat([queue.memory_label[:given], queue.memory_label[given + more :]])
        out.append({"logits": p.log()})
        # The bounded memory is written down; a larger one shows in the votes.
        if self_share < 1:
            out[-1]["state"] = {"rows/features": queue.memory.clone()}
    # Both ways of voting show.
    assert ball is None or 0 < balls < len(batches), balls
    settings = {} if ball is None else {"ball": ball}
    settings |= {"neighbours": neighbours, "temperature": temperature, "threshold": threshold}
    return case(name, settings | {"self_share": self_share, "compat": compat}, {}, out, kind)


cases = [
    run("default"),
    run("sure_and_few", neighbours=5, threshold=0.6, self_share=0.2),
    run("double_softmax", neighbours=7, threshold=0.45, compat="double_softmax"),
    run("ball", neighbours=5, threshold=0.5, ball=0.985),
    run("group", neighbours=20, temperature=0.5, threshold=0.4, kind="group"),
]
source = f"{REPOSITORY} (domainbed/knn.py, domainbed/adapt_algorithms.py)"
write("tta/adanpc", header(__file__, source, 2, {"f64": 1e-10, "f32": 1e-3}, commit=COMMIT), cases)
