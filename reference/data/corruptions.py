"""The common corruptions of Hendrycks and Dietterich: what the authors' functions give for small painted pictures.

Needs a checkout of `hendrycks/robustness` (commit 8190fe3); ROBUSTNESS names its folder `ImageNet-C/create_c`. The functions
are taken out of make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py as they stand, and run with these changes:

- Where the picture's size is written into a function (32, 64 or 224), the size of ours is put there.
- `np.random` draws from splitmix64, which the test in Rust draws from too: one number for a uniform or whole draw, two for
  a normal one (Box-Muller), one for a Poisson count (the quantile, by scipy). scikit-image's salt and pepper draws from it.
- ImageMagick's motion blur is that of the package imagecorruptions, a port of it. Its result is rounded to bytes, as there.
- Names that numpy and scikit-image have dropped are given their successors.

A picture of one channel is given as three equal ones, and the first channel of the result is kept (the brightness, for
spatter); noise is drawn once a pixel. Of frost only the strengths are kept: its pictures are not used.

A case holds `size`, `channels`, the corruption and its severity; `expected` has the mean and the mean square of the result
divided by 255, and its values at every `stride`-th place of [height, width, channels].
"""

import ast
import ctypes
import importlib.metadata
import importlib.util
import math
import os
import sys
import warnings
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy
import scipy.stats
import skimage
import skimage.color
import skimage.filters
import skimage.util
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.ndimage import rotate as scirotate
from scipy.ndimage import zoom as scizoom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import golden

warnings.simplefilter("ignore")
SEED = 7
NOISE = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]
OTHERS = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "fog", "brightness", "contrast"]
OTHERS += ["elastic_transform", "pixelate", "jpeg_compression", "gaussian_blur", "spatter", "saturate"]


class Source:
    """splitmix64, and numpy.random's functions by it."""

    def __init__(self, seed):
        self.state = seed

    def random(self, shape):
        count = int(numpy.prod(shape))
        mask = (1 << 64) - 1
        out = numpy.empty(count)
        for i in range(count):
            self.state = (self.state + 0x9E3779B97F4A7C15) & mask
            z = self.state
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            out[i] = ((z ^ (z >> 31)) >> 11) / (1 << 53)
        return out.reshape(shape)

    def uniform(self, low=0.0, high=1.0, size=()):
        return low + (high - low) * self.random(size)

    def normal(self, loc=0.0, scale=1.0, size=()):
        u = self.random((int(numpy.prod(size)), 2))
        z = numpy.sqrt(-2 * numpy.log(1 - u[:, 0])) * numpy.cos(2 * numpy.pi * u[:, 1])
        return loc + scale * z.reshape(size)

    def randint(self, low, high, size=()):
        return low + (self.random(size) * (high - low)).astype(int)

    def poisson(self, mean):
        return numpy.maximum(scipy.stats.poisson.ppf(self.random(mean.shape), mean), 0)


class Numpy:
    """numpy with the names that were dropped, and with our draws."""

    float_ = numpy.float64

    def __init__(self, source):
        self.random = source

    @staticmethod
    def fromstring(data, dtype):
        return numpy.frombuffer(data, dtype)

    def __getattr__(self, name):
        return getattr(numpy, name)


def port():
    """The motion blur of imagecorruptions, whose import needs what setuptools has dropped."""
    file = Path(importlib.util.find_spec("imagecorruptions").origin).with_name("corruptions.py")
    wanted = {"getOptimalKernelWidth1D", "gauss_function", "getMotionBlurKernel", "shift", "_motion_blur"}
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    space = {"np": numpy, "math": math}
    exec(compile(tree, str(file), "exec"), space)
    return space["_motion_blur"]


class MotionImage:
    """What the authors use of wand: a PNG in, a motion blur, a PNG out."""

    blur = staticmethod(port())

    def __init__(self, blob):
        self.pixels = cv2.imdecode(numpy.frombuffer(blob, numpy.uint8), cv2.IMREAD_UNCHANGED)

    def motion_blur(self, radius, sigma, angle):
        blurred = self.blur(self.pixels.astype(float), radius, sigma, angle)
        self.pixels = numpy.round(blurred).clip(0, 255).astype(numpy.uint8)

    def make_blob(self):
        return cv2.imencode(".png", self.pixels)[1].tobytes()


class Resize(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit_Constant(self, node):
        return ast.copy_location(ast.Constant(self.new), node) if node.value == self.old else node


def gaussian(image, sigma, multichannel=False, **more):
    return skimage.filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None, **more)


def functions(name, native, size, source):
    """The authors' functions for pictures of this size, and their tree."""
    folder = os.environ.get("ROBUSTNESS")
    if folder is None:
        sys.exit("set ROBUSTNESS to the folder ImageNet-C/create_c of a checkout of hendrycks/robustness")
    tree = ast.parse((Path(folder) / name).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if node.name not in ("plasma_fractal", "disk"):
            node.body = [Resize(native, size).visit(statement) for statement in node.body]
    sk = SimpleNamespace(color=skimage.color, util=skimage.util)
    skimage.util.noise._bernoulli = lambda p, shape, *, rng: source.random(shape) <= p
    space = {"np": Numpy(source), "sk": sk, "gaussian": gaussian, "cv2": cv2, "PILImage": Image, "BytesIO": BytesIO}
    space |= {"MotionImage": MotionImage, "scizoom": scizoom, "map_coordinates": map_coordinates, "ctypes": ctypes}
    exec(compile(tree, name, "exec"), space)
    return space, tree


def paint(size, channels):
    """A sky, a sun, a hill, stripes and a texture, in whole numbers alone."""
    y, x, c = numpy.meshgrid(range(size), range(size), range(channels), indexing="ij")
    u, w = x * 256 // size, y * 256 // size
    value = 90 + w * 90 // 256 + 25 * c
    value = value + numpy.where((u - 80) ** 2 + (w - 90) ** 2 < 50**2, 70 - 45 * c, 0)
    value = value - numpy.where((u - 180) ** 2 + (w - 170) ** 2 < 60**2, 60 - 20 * c, 0)
    value = value + numpy.where((u + w) // 24 % 2 == 1, 18, 0)
    value = value + (u * u * 7 + w * w * 13 + u * w * 5 + 31 * c) % 23 - 11
    return value.clip(0, 255).astype(numpy.uint8)


def run(name, native, size, channels, corruptions, severities, stride):
    picture = paint(size, channels)
    rgb = Image.fromarray(picture if channels == 3 else numpy.repeat(picture, 3, 2))
    for corruption in corruptions:
        if corruption == "saturate" and channels == 1:
            continue
        for severity in severities:
            source = Source(SEED)
            space, _ = functions(name, native, size, source)
            given = picture if corruption in NOISE else rgb
            got = numpy.asarray(space[corruption](given, severity), dtype=float) / 255
            if channels == 1 and corruption not in NOISE:
                gray = numpy.array([0.299, 0.587, 0.114])
                got = (got @ gray if corruption == "spatter" else got[..., 0])[..., None]
            expected = {"mean": got.mean(), "mean_square": (got**2).mean(), "values": got.ravel()[::stride].tolist()}
            expected = {k: [round(x, 7) for x in v] if isinstance(v, list) else round(v, 9) for k, v in expected.items()}
            config = {"corruption": corruption, "severity": severity, "size": size, "channels": channels}
            config |= {"stride": stride}
            title = f"{corruption} {severity}, {size} x {size} x {channels}"
            yield {"name": title, "config": config, "inputs": {}, "expected": expected}


def strengths(name, table):
    """The authors' pairs for frost: how much is kept of the picture, and how much frost is put."""
    _, tree = functions(name, 0, 0, Source(0))
    frost = next(node for node in tree.body if node.name == "frost")
    pairs = ast.literal_eval(next(n for n in frost.body if isinstance(n, ast.Assign)).value.value)
    config = {"corruption": "frost", "table": table}
    return {"name": f"frost, {table}", "config": config, "inputs": {}, "expected": {"pairs": [list(p) for p in pairs]}}


def turns():
    """A picture of 12 pixels a side turned by scipy, and the corners that show which way."""
    picture = paint(12, 1)[..., 0] / 255
    for degrees in (0, 15, 30, 90, -40):
        got = scirotate(picture, degrees, reshape=False, order=1, mode="grid-constant", cval=0)
        config = {"rotation": degrees, "size": 12, "channels": 1, "stride": 1}
        values = [round(x, 9) for x in got.ravel().tolist()]
        yield {"name": f"rotation {degrees}", "config": config, "inputs": {}, "expected": {"values": values}}


small, tiny, large = "make_cifar_c.py", "make_tinyimagenet_c.py", "make_imagenet_c.py"
cases = list(run(small, 32, 28, 1, NOISE + OTHERS, range(1, 6), 11))
cases += run(small, 32, 32, 3, NOISE + OTHERS, range(1, 6), 37)
cases += run(tiny, 64, 64, 3, NOISE + OTHERS, range(1, 6), 149)
cases += run(large, 224, 224, 3, OTHERS, (1, 3, 5), 1801)
cases += [strengths(small, "small"), strengths(tiny, "middling"), strengths(large, "large")]
cases += turns()
used = ("imagecorruptions", "numpy", "opencv-python-headless", "pillow", "scikit-image", "scipy")
packages = {package: importlib.metadata.version(package) for package in used}
head = golden.header(__file__, "hendrycks/robustness, its functions with other draws", SEED, {}, packages=packages)
head["commit"] = "8190fe3"
golden.write("data/corruptions", head, cases)
