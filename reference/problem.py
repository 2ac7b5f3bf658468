"""The optimisers' problem: a diagonal quadratic plus a logistic term over three leaves, and its 50-step run.

f(x) = 1/2 sum_j a_j (x_j - c_j)^2 + 1/n sum_i log(1 + exp(-y_i <w_i, x>)), with x the leaves p0, p1, p2 one after another,
each in row-major order. Every constant is written into the golden file.
"""

import math
from types import SimpleNamespace

import torch

from golden import tensor

SHAPES = {"p0": [3], "p1": [4, 2], "p2": [2, 3, 2]}
RECORDED = (1, 2, 10, 50)
STEPS = 50
WARMUP = 5


def schedule():
    """Five steps of linear warm-up to 1, then a cosine from 1 down to 0.1."""
    warm = [(k + 1) / WARMUP for k in range(WARMUP)]
    rest = STEPS - WARMUP
    return warm + [0.1 + 0.45 * (1 + math.cos(math.pi * k / (rest - 1))) for k in range(rest)]


def standard(seed=0):
    """23 numbers with curvatures from 0.1 to 10 in a mixed order, and 7 rows of the logistic term."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: (torch.randn(*shape, generator=rng, dtype=torch.float64) * 1e3).round() / 1e3
    n = sum(math.prod(s) for s in SHAPES.values())
    curvature = (10 ** torch.linspace(-1, 1, n, dtype=torch.float64) * 1e3).round() / 1e3
    return SimpleNamespace(
        shapes=SHAPES,
        x=draw(n),
        a=curvature[torch.randperm(n, generator=rng)],
        c=2 * draw(n),
        w=draw(7, n),
        y=torch.tensor([1.0, -1, 1, 1, -1, -1, 1], dtype=torch.float64),
        lr_multiplier=schedule(),
    )


def factors(seed=0):
    """The same numbers as a pair of factors and a vector."""
    p = standard(seed)
    p.shapes = {"s.a": [2, 3], "s.b": [4, 2], "t": [9]}
    return p


def card():
    """The three-number quadratic of the catalogue card: no logistic term (one zero row), no schedule."""
    f64 = lambda v: torch.tensor(v, dtype=torch.float64)
    return SimpleNamespace(
        shapes={"p0": [3]},
        x=f64([0.0, 0, 0]),
        a=f64([1.0, 10, 0.1]),
        c=f64([1.0, -2, 3]),
        w=torch.zeros(1, 3, dtype=torch.float64),
        y=f64([1.0]),
        lr_multiplier=[1.0] * STEPS,
    )


def leaves(p):
    """The starting point as named leaf tensors that need gradients."""
    sizes = [math.prod(s) for s in p.shapes.values()]
    parts = p.x.clone().split(sizes)
    return {k: part.reshape(s).clone().requires_grad_() for part, (k, s) in zip(parts, p.shapes.items())}


def loss(p, params):
    x = torch.cat([t.flatten() for t in params.values()])
    # Not softplus: torch's turns into a line above 20, where the slope is still 2e-9 away from one.
    margin = -p.y * (p.w @ x)
    logistic = torch.logaddexp(torch.zeros_like(margin), margin).mean()
    return 0.5 * (p.a * (x - p.c) ** 2).sum() + logistic


def inputs(p):
    """The problem as the golden file holds it. Row k of `lr_multiplier` is for step k + 1."""
    return {
        "params": {k: tensor(t) for k, t in leaves(p).items()},
        "a": tensor(p.a),
        "c": tensor(p.c),
        "w": tensor(p.w),
        "y": tensor(p.y),
        "lr_multiplier": p.lr_multiplier,
    }


def run(name, settings, make, host=None, p=None, before=None, evaluate=None, log=None, compat=None):
    """One case: 50 steps of the optimiser that `make(groups)` builds, each group's `lr` the case's times the schedule's.

    `settings` are the method's own, `host` those of its host (`weight_decay`, `decoupled`, `rates`: leaf to relative rate), both
    under acclimate's names; `null` is no limit. `before(params, rate)` runs between the backward pass and the step,
    `evaluate(optimiser, params)` answers with the values to evaluate with, by leaf, `log(optimiser)` with numbers by name (default:
    `d`, where the first group has one). `compat` says whose slip the case follows; it is not compared.
    """
    p = p or standard()
    host = host or {}
    params = leaves(p)
    rates = host.get("rates")
    groups = [{"params": list(params.values())}]
    if rates:
        groups = [{"params": [t], "layer_scale": rates[k]} for k, t in params.items()]
    optimiser = make(groups)
    log = log or (lambda o: {"d": float(o.param_groups[0]["d"])} if "d" in o.param_groups[0] else {})
    steps = []
    start = None
    for k in range(1, STEPS + 1):
        rate = settings.get("lr", 1.0) * p.lr_multiplier[k - 1]
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        value = loss(p, params)
        value.backward()
        if start is None:
            start = {"loss": value.item(), "gradients": {n: tensor(t.grad) for n, t in params.items()}}
        if before:
            with torch.no_grad():
                before(params, rate)
        optimiser.step()
        if k in RECORDED:
            step = {"step": k, "params": {n: tensor(t) for n, t in params.items()}}
            if evaluate:
                step["evaluated"] = {n: tensor(t) for n, t in evaluate(optimiser, params).items()}
            if numbers := log(optimiser):
                step["log"] = numbers
            steps.append(step)
    case = {"name": name, "settings": settings, "host": host, "inputs": inputs(p)}
    if compat:
        case["compat"] = compat
    return case | {"expected": {"start": start, "steps": steps}}


class Transcription:
    """An optimiser written out as a rule on all leaves as one vector: `rule(x, g, rate)` gives the next point."""

    def __init__(self, groups, rule):
        self.param_groups, self.rule = groups, rule
        self.leaves = [t for group in groups for t in group["params"]]

    def zero_grad(self):
        for t in self.leaves:
            t.grad = None

    @torch.no_grad()
    def step(self):
        x, g = (torch.cat([t.flatten() for t in ts]) for ts in (self.leaves, [t.grad for t in self.leaves]))
        for t, part in zip(self.leaves, self.rule(x, g, self.param_groups[0]["lr"]).split([t.numel() for t in self.leaves])):
            t.copy_(part.reshape(t.shape))


def like(params, flat):
    """One vector as tensors of the leaves' names and shapes."""
    parts = flat.split([t.numel() for t in params.values()])
    return {name: part.reshape(t.shape) for part, (name, t) in zip(parts, params.items())}


def check_card(case, d10, d50):
    """The case itself, once its d after 10 and 50 steps has been held against the catalogue's table."""
    d = {step["step"]: step["log"]["d"] for step in case["expected"]["steps"]}
    assert abs(d[10] / d10 - 1) < 1e-9 and abs(d[50] / d50 - 1) < 1e-9, (case["name"], d)
    return case
