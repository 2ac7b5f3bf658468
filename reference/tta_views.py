"""The random views of images that CoTTA and RMT average or contrast, with acclimate's draws.

After augmentations/transforms_cotta.py of mariodoebler/test-time-adaptation (at 8b2ed63) and what torchvision documents for its
parts: colours of all images of a batch alike, in an order sorted by five draws; a turn, a shift of whole pixels and a scale by
`grid_sample`, the last pixel going on beyond the edge (theirs does so for half a width); a Gaussian blur of five taps; a flip;
noise.
"""

import colorsys
import math

import torch
import torch.nn.functional as F
from streams import normal, stream, uniform


def grey(x):
    return (0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]) if x.shape[1] == 3 else x


def colour(x, kind, by):
    if kind == 0:
        return (x * by).clamp(0, 1)
    if kind == 1:
        return (by * x + (1 - by) * grey(x).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    if kind == 2 and x.shape[1] == 3:
        return (by * x + (1 - by) * grey(x)).clamp(0, 1)
    if kind == 3 and x.shape[1] == 3:
        flat = x.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
        turned = []
        for r, g, b in flat:
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            turned.append(colorsys.hsv_to_rgb((h + by) % 1, s, v))
        n, _, height, width = x.shape
        return torch.tensor(turned, dtype=x.dtype).reshape(n, height, width, 3).permute(0, 3, 1, 2)
    if kind == 4:
        return x.clamp(1e-8, 1) ** by
    return x


def view(x, words, low, high):
    """A view of images `[n, channels, height, width]`; `words` is the random stream, which goes on."""
    _, channels, height, width = x.shape
    between = lambda a, b: a + (b - a) * uniform(words)
    keys = [uniform(words) for _ in range(5)]
    colours = [between(*r) for r in [(0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3)]]
    angle = math.radians(between(-15, 15))
    shift = [round(between(-side / 8, side / 8)) for side in (width, height)]
    scale, sigma = between(0.9, 1.1), between(0.001, 0.5)
    flip = uniform(words) < 0.5
    x = ((x - low) / (high - low)).clamp(0, 1)
    for kind in sorted(range(5), key=lambda k: keys[k]):
        x = colour(x, kind, colours[kind])
    # Offsets from the centre, two pixels more on each side for the blur.
    v, u = torch.meshgrid(
        torch.arange(-2, height + 2, dtype=x.dtype) + 0.5 - height / 2 - shift[1],
        torch.arange(-2, width + 2, dtype=x.dtype) + 0.5 - width / 2 - shift[0],
        indexing="ij",
    )
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=x.dtype)
    source = torch.stack([u, v], -1) @ turn.T / scale
    grid = source / torch.tensor([width / 2, height / 2], dtype=x.dtype)
    x = F.grid_sample(x, grid.expand(len(x), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False)
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=x.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps[None]).expand(channels, 1, 5, 5)
    x = F.conv2d(x, kernel, groups=channels)
    if flip:
        x = x.flip(3)
    noise = torch.tensor([normal(words) for _ in range(x.numel())], dtype=x.dtype).reshape(x.shape)
    return low + (high - low) * (x + 0.005 * noise).clamp(0, 1)


def views(seed, step):
    """The stream of a batch's views."""
    return stream(seed, "view", step)
