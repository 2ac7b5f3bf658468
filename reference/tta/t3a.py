"""T3A as the DomainBed copy of AdaNPC's authors has it (yfzhang114/AdaNPC, domainbed/adapt_algorithms.py) in f64. Seed 2.

Their `filter_K` is never -1 here, with which their slice would drop a support of each class. `state` holds the supports.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from authors import take
from golden import header, write
from tta_stream import batches, case, features, model

REPOSITORY, PATH = "yfzhang114/AdaNPC", "domainbed/adapt_algorithms.py"
COMMIT = "29fe27abf4f062a0fb0d7e33acae83cb5a94f374"
torch.set_default_dtype(torch.float64)


class Algorithm(torch.nn.Module):
    """What theirs keeps of its arguments."""

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
        self.hparams = hparams


def softmax_entropy(x):
    """Theirs is this, compiled, which needs a file."""
    return -(x.softmax(1) * x.log_softmax(1)).sum(1)


T3A = take(REPOSITORY, COMMIT, PATH, ["T3A"], Algorithm=Algorithm, softmax_entropy=softmax_entropy).T3A


class Double(T3A):
    """Theirs in f64: it makes its labels f32."""

    def select_supports(self):
        supports, labels = super().select_supports()
        return supports, labels.double()


def run(name, most, kind="batch"):
    net, _ = model(kind, train="none", statistics="stored")
    given = SimpleNamespace(featurizer=None, classifier=net.head)
    method = Double(None, 3, None, {"filter_K": most, "cached_loader": True}, given)
    out = []
    with torch.no_grad():
        for x in batches:
            logits = method(features(net, x)[0], adapt=True)
            out.append({"logits": logits, "state": {"supports/features": method.supports.clone()}})
    return case(name, {"filter": most}, {}, out, kind)


cases = [run("default", 100), run("five", 5), run("group", 3, kind="group")]
source = f"{REPOSITORY} ({PATH})"
write("tta/t3a", header(__file__, source, 2, {"f64": 1e-11, "f32": 1e-3}, commit=COMMIT), cases)
