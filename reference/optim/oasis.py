"""OASIS: a transcription of the paper's recursion, since no package has it. Seed 0.

Hessian products are exact here (two backward passes), where the Rust code takes differences of gradients; hence the tolerance. eta is not
written down: near the minimum it is a quotient of small differences. A random sign is -1 where the top bit of the stream's next 64 is
not set.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import card, loss, run, standard
from streams import stream


class Oasis(torch.optim.Optimizer):
    def __init__(self, groups, p, s):
        super().__init__(groups, {"lr": 1.0})
        self.p, self.s, self.k, self.eta, self.theta = p, s, 0, s["lr"], math.inf
        self.diagonal = self.mean = None

    def flat(self, tensors):
        return torch.cat([t.detach().flatten() for t in tensors])

    def at(self, w):
        """Gradient and Hessian product at a point."""
        parts = [part.reshape(shape) for part, shape in zip(w.split([math.prod(s) for s in self.p.shapes.values()]), self.p.shapes.values())]
        leaves = [part.clone().requires_grad_() for part in parts]
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(self.p, dict(zip(self.p.shapes, leaves))), leaves, create_graph=True)
            g = torch.cat([g.flatten() for g in grads])

        def product(z):
            with torch.enable_grad():
                return self.flat(torch.autograd.grad((g * z).sum(), leaves, retain_graph=True))

        return g.detach(), product

    @torch.no_grad()
    def step(self):
        s = self.s
        self.k += 1
        leaves = [x for group in self.param_groups for x in group["params"]]
        multiplier = self.param_groups[0]["lr"] / s["lr"]
        w = self.flat(leaves)
        g, product = self.at(w)
        streams = [stream(s["seed"], f"oasis/{name}", self.k) for name in self.p.shapes]
        estimates = []
        for _ in range(s["samples"] if self.k == 1 else 1):
            signs = [1.0 if next(words) >> 63 else -1.0 for x, words in zip(leaves, streams) for _ in range(x.numel())]
            z = torch.tensor(signs, dtype=w.dtype)
            estimates.append(z * product(z))
        estimate = torch.stack(estimates).mean(0)
        self.diagonal = estimate if self.k == 1 else s["beta2"] * self.diagonal + (1 - s["beta2"]) * estimate
        bounded = self.diagonal.abs().clamp(min=s["eps"])
        if s["adaptive"] and self.k > 1:
            moved, changed = w - self.last, g - self.at(self.last)[0]
            quotient = (bounded * moved**2).sum().sqrt() / (2 * (changed**2 / bounded).sum().sqrt())
            eta = min(math.sqrt(1 + self.theta) * self.eta, quotient.item())
            self.theta, self.eta = eta / self.eta, eta
        self.last = w
        self.mean = (1 - s["beta1"]) * g + (s["beta1"] * self.mean if self.k > 1 else 0)
        step = self.eta * multiplier * self.mean / bounded
        for x, part in zip(leaves, step.split([x.numel() for x in leaves])):
            x -= part.reshape(x.shape)


def case(name, p=None, **change):
    defaults = {"lr": 1e-3, "beta1": 0.0, "beta2": 0.99, "eps": 1e-5, "samples": 10}
    settings = defaults | {"adaptive": True, "stochastic": True, "seed": 0} | change
    p = p or standard()
    return run(name, settings, lambda groups: Oasis(groups, p, settings), p=p)


cases = [
    case("plain"),
    case("deterministic", stochastic=False),
    case("short_memory", beta2=0.9, samples=1, seed=3),
    case("momentum", beta1=0.5),
    case("floor", eps=1.0),
    case("fixed_step", adaptive=False, lr=0.3),
    case("card", card()),
]
source = "transcription of arXiv:2109.05198 with exact Hessian products"
write("optim/oasis", header(__file__, source, 0, {"f64": 1e-6, "f32": 1e-3}), cases)
