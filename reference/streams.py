"""acclimate's random streams, written out from their definitions: a draw is named by seed, purpose and step.

The words are those of ChaCha with 8 rounds, keyed by the SHA-256 of seed, step and purpose. Normal numbers come from the ziggurat of
Marsaglia and Tsang with 256 layers.
"""

import hashlib
import math
import struct

R = 3.654152885361008796


def chacha8(key):
    """The stream's 64-bit words."""
    mask = 0xFFFFFFFF
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    quarters += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    counter = 0
    while True:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), counter, 0, 0, 0]
        s = list(start)
        for _ in range(4):
            for a, b, c, d in quarters:
                for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    s[x] = (s[x] + s[y]) & mask
                    s[z] ^= s[x]
                    s[z] = ((s[z] << by) | (s[z] >> (32 - by))) & mask
        words = [(w + v) & mask for w, v in zip(s, start)]
        yield from (low | (high << 32) for low, high in zip(words[::2], words[1::2]))
        counter += 1


def stream(seed, purpose, step):
    """The 64-bit words of a stream."""
    return chacha8(hashlib.sha256(struct.pack("<QQ", seed, step) + purpose.encode()).digest())


def density(x):
    return math.exp(-x * x / 2)


def layers():
    """Where each layer of the ziggurat ends, from the widest to the top."""
    area = R * density(R) + math.sqrt(math.pi / 2) * math.erfc(R / math.sqrt(2))
    ends = [area / density(R), R]
    while len(ends) < 256:
        ends.append(math.sqrt(-2 * math.log(area / ends[-1] + density(ends[-1]))))
    return ends + [0.0]


ENDS = layers()


def uniform(words):
    """A number in [0, 1)."""
    return (next(words) >> 11) * 2.0**-53


def normal(words):
    """A standard normal number."""
    while True:
        word = next(words)
        layer, u = word & 0xFF, 2 * ((word >> 12) * 2.0**-52) - 1
        x = u * ENDS[layer]
        if abs(x) < ENDS[layer + 1]:
            return x
        if layer == 0:
            while True:
                a, b = (math.log((next(words) >> 12) * 2.0**-52 + 2.0**-53) for _ in range(2))
                if -2 * b >= (a / R) ** 2:
                    return math.copysign(R - a / R, u)
        low, high = density(ENDS[layer]), density(ENDS[layer + 1])
        if high + (low - high) * uniform(words) < density(x):
            return x


def shuffled(n, seed, purpose, step=0):
    """The numbers below `n` in a drawn order: Fisher and Yates from the end, each place by Canon's method on 32 bits."""
    halves = (half for word in stream(seed, purpose, step) for half in (word & 0xFFFFFFFF, word >> 32))
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        product = next(halves) * (i + 1)
        place, low = product >> 32, product & 0xFFFFFFFF
        if low > 2**32 - (i + 1):
            place += (low + (next(halves) * (i + 1) >> 32)) >> 32
        order[i], order[place] = order[place], order[i]
    return order
