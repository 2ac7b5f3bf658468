"""LoFT: a transcription of the paper's recursion, written factor by factor. Seed 0.

The authors' optimiser (tnurbek/loft, 2d0557b) is not the source: it carries the second moment over by the transpose of what the whole-rank
limit needs, moves one factor before the other has its moments, and decays without the rate. Where its slips do not reach it gave the
same numbers, when it was tried once: at the first step, and at the second with that transpose turned. `plain_adamw`, with all switches
off, is torch.optim.AdamW (torch 2.8.0).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from golden import header, write
from problem import factors, run

DEFAULTS = {
    "lr": 0.02,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-4,
    "input_damping": 1e-6,
    "output_damping": 1e-8,
    "clip": 1.0,
    "alternate": True,
    "rescale": True,
    "reproject_momentum": True,
    "reproject_second_moment": True,
}


class Loft(torch.optim.Optimizer):
    def __init__(self, groups, settings, weight_decay):
        super().__init__(groups, {"lr": 1.0})
        self.s, self.weight_decay, self.t, self.old = settings, weight_decay, 0, None
        a, b, c = self.param_groups[0]["params"]
        rank = len(a)
        self.ma, self.mb, self.mc = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(c)
        self.pa = torch.zeros(a.shape[1], rank, rank).to(a)
        self.pb = torch.zeros(len(b), rank, rank).to(a)
        self.va, self.vb, self.vc = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(c)

    @torch.no_grad()
    def step(self):
        s, lr = self.s, self.param_groups[0]["lr"]
        b1, b2, eps = s["beta1"], s["beta2"], s["eps"]
        a, b, c = self.param_groups[0]["params"]
        ga, gb, gc = a.grad, b.grad, c.grad
        self.t += 1
        turn_b = not s["alternate"] or self.t % 2 == 1
        turn_a = not s["alternate"] or self.t % 2 == 0
        eye = torch.eye(len(a)).to(a)
        sa = torch.linalg.inv(b.T @ b + s["input_damping"] * eye)
        sb = torch.linalg.inv(a @ a.T + s["output_damping"] * eye)
        whole = [gc]
        if turn_a:
            whole.append(b @ sa @ ga if s["rescale"] else ga)
        if turn_b:
            whole.append(gb @ sb @ a if s["rescale"] else gb)
        norm = torch.cat([g.flatten() for g in whole]).norm()
        shrink = min(1.0, s["clip"] / norm) if s["clip"] is not None else 1.0
        ga, gb, gc = shrink * ga, shrink * gb, shrink * gc
        if s["rescale"]:
            ga, gb = sa @ ga, gb @ sb
        if self.old is not None:
            old_a, old_b = self.old
            ra, rb = sa @ (b.T @ old_b), (old_a @ a.T) @ sb
            if s["reproject_momentum"]:
                self.ma, self.mb = ra @ self.ma, self.mb @ rb
            if s["reproject_second_moment"]:
                self.pa = torch.einsum("xu,juv,yv->jxy", ra, self.pa, ra)
                self.pb = torch.einsum("ux,iuv,vy->ixy", rb, self.pb, rb)
        self.ma = b1 * self.ma + (1 - b1) * ga
        self.mb = b1 * self.mb + (1 - b1) * gb
        self.mc = b1 * self.mc + (1 - b1) * gc
        self.pa = b2 * self.pa + (1 - b2) * torch.einsum("uj,vj->juv", ga, ga)
        self.pb = b2 * self.pb + (1 - b2) * torch.einsum("iu,iv->iuv", gb, gb)
        self.va, self.vb = b2 * self.va + (1 - b2) * ga**2, b2 * self.vb + (1 - b2) * gb**2
        self.vc = b2 * self.vc + (1 - b2) * gc**2
        first, second = 1 - b1**self.t, 1 - b2**self.t
        normalised = lambda m, v: (m / first) / ((v / second).sqrt() + eps)
        if s["reproject_second_moment"]:
            ua = normalised(b @ self.ma, torch.einsum("iu,juv,iv->ij", b, self.pa, b))
            ub = normalised(self.mb @ a, torch.einsum("uj,iuv,vj->ij", a, self.pb, a))
            da, db = sa @ b.T @ ua, ub @ a.T @ sb
        else:
            da, db = normalised(self.ma, self.va), normalised(self.mb, self.vb)
        self.old = (a.clone(), b.clone())
        keep = 1 - lr * self.weight_decay
        if turn_a:
            a.mul_(keep).sub_(lr * da)
        if turn_b:
            b.mul_(keep).sub_(lr * db)
        c.mul_(keep).sub_(lr * normalised(self.mc, self.vc))


def case(name, weight_decay=0.0, **change):
    settings = DEFAULTS | change

    def make(groups):
        if settings["rescale"]:
            return Loft(groups, settings, weight_decay)
        betas = (settings["beta1"], settings["beta2"])
        return torch.optim.AdamW(groups, betas=betas, eps=settings["eps"], weight_decay=weight_decay, foreach=False)

    return run(name, settings, make, {"weight_decay": weight_decay, "decoupled": True}, p=factors())


OFF = {"reproject_momentum": False, "reproject_second_moment": False}
cases = [
    case("plain"),
    case("together", alternate=False),
    case("no_clip", clip=None, eps=1e-8, beta2=0.9),
    case("own_second_moment", reproject_second_moment=False),
    case("no_reprojection", **OFF),
    case("second_moment_alone", reproject_momentum=False),
    case("decoupled_weight_decay", weight_decay=0.1),
    case("plain_adamw", weight_decay=0.1, clip=None, alternate=False, rescale=False, **OFF),
]
source = f"transcription of arXiv:2505.21289, and torch {torch.__version__} with all switches off"
write("optim/loft", header(__file__, source, 0, {"f64": 1e-9, "f32": 1e-3}), cases)
