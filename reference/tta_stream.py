"""What the scripts below `tta/` share: the tiny network, a stream of images for it, and how a run is written down. Seed 2.

The model is one of `golden/models/resnet_tiny.safetensors` (`batch` or `group` norms). `golden/tta/stream.safetensors`, which this
script writes when it is run itself, holds ten batches of eight images, brighter and with more contrast as the stream goes on, and
four reference batches like those of training, whose rows are of class 0, 1, 2, 0, and so on. A case holds `settings` (the
method's, under our names), `host` (what trains, the optimiser, statistics of another method, resets) and for every batch what is
expected: the logits and, at `KEPT`, the trained tensors and what the method remembers.
"""

import torch
from golden import ROOT, tensor
from safetensors.torch import load_file, save_file
from tiny_resnet import build, use_batch_statistics

KEPT = (0, 1, 9)


CLASSES = [row % 3 for row in range(8)]


def drawn():
    rng = torch.Generator().manual_seed(2)
    images = lambda: (torch.randn(8, 1, 8, 8, generator=rng, dtype=torch.float64) * 1e3).round() / 1e3
    batches = [images() * (1 + 0.1 * i) + 0.05 * i for i in range(10)]
    return batches, [images() for _ in range(4)]


batches, reference = drawn()


def model(kind="batch", train="norms", statistics="batch"):
    """The network in f64, and by name the tensors that are trained: `norms`, `all` or none. `statistics` of batch norms are the
    batch's or the stored ones."""
    net = build(kind)
    stored = load_file(ROOT / "golden" / "models" / "resnet_tiny.safetensors")
    for name, value in net.state_dict().items():
        assert "num_batches" in name or torch.equal(value, stored[f"{kind}_norm/{name}"]), name
    if statistics == "batch":
        use_batch_statistics(net)
    net.requires_grad_(False)
    named = {}
    for path, parameter in net.named_parameters():
        if train == "all" or (train == "norms" and "norm" in path.split(".")[-2]):
            named[path] = parameter.requires_grad_(True)
    return net, named


ADAM = {"method": "adamw", "settings": {"lr": 1e-3}}


def adam(named, lr=1e-3):
    """What the host's AdamW without decay is."""
    return torch.optim.Adam(list(named), lr=lr, betas=(0.9, 0.999), eps=1e-8)


def sgd(lr, momentum=0.9):
    """How a case writes SGD down, and SGD."""
    settings = {"lr": lr, "momentum": momentum, "nesterov": False}
    return {"method": "sgd", "settings": settings}, lambda named: torch.optim.SGD(list(named), lr=lr, momentum=momentum)


def full(name):
    """The name of a patch's tensor: `norm.full.weight` for `norm.weight`."""
    site, _, field = name.rpartition(".")
    return f"{site}.full.{field}"


def features(net, x):
    """What the head sees, and the logits."""
    seen = []
    handle = net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = net(x)
    handle.remove()
    return seen[0], logits


def case(name, settings, host, steps, kind="batch", **more):
    """One case; `steps` has for every batch a dictionary with `logits`, and where wanted `params` and `state`, of tensors."""
    expected = []
    for at, step in enumerate(steps):
        out = {"logits": tensor(step["logits"])}
        for part in ("params", "state"):
            if part in step and at in KEPT:
                out[part] = {k: tensor(v) for k, v in step[part].items()}
        expected.append(out)
    return {"name": name, "norm": kind, "settings": settings, "host": host, "expected": expected} | more


if __name__ == "__main__":
    tensors = {f"batch/{i}": x for i, x in enumerate(batches)} | {f"reference/{i}": x for i, x in enumerate(reference)}
    save_file(tensors, ROOT / "golden" / "tta" / "stream.safetensors")
