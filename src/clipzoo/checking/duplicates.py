"""Search for equal and nearly equal items by hashes of 8 bytes, in time n log n.

Pictures are nearly equal if their difference hashes (dHash: is a pixel of the 9 × 8 thumbnail brighter than its right
neighbor? 64 bits) differ in at most `NEAR` bits. Such hashes are equal in at least three of six blocks, so they are
neighbors when sorted by some three blocks (Manku et al., Detecting near-duplicates for web crawling, WWW 2007).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.types import ImageArray

Hashes = NDArray[np.uint64]

NEAR = 3
NEIGHBORS = 16
"""The number of next hashes that a hash is compared with, of those with three equal blocks; it bounds the time."""
WHOLE = 512
"""The largest number of hashes with three equal blocks that are all compared with each other."""

FLAT = 4.0
"""The least standard deviation (of 255) of a thumbnail; the hash of a more uniform one is not distinctive."""

_EDGES = (0, 11, 22, 33, 44, 54, 64)
_STEPS = (1, 2, 4, 8, NEIGHBORS + 1, 32, 64, 128, 256)
"""The distances at which hashes without another one at this distance are dropped."""
_MASKS = [
    np.uint64(sum(((1 << (_EDGES[b + 1] - _EDGES[b])) - 1) << _EDGES[b] for b in blocks))
    for blocks in combinations(range(6), 3)
]


def dhash(image: ImageArray) -> int | None:
    """Return the difference hash of uint8 H×W×3 as 64 bits; None if the picture is flat.

    The hash is that of brightness; if brightness is uniform, that of the color channel that varies most.
    """
    thumbnail = Image.fromarray(image).resize((9, 8), Image.Resampling.BOX)
    small = np.asarray(thumbnail.convert("L"), dtype=np.int16)
    if small.std() < FLAT:
        colors = np.asarray(thumbnail, dtype=np.int16)
        small = colors[..., colors.std((0, 1)).argmax()]
    if small.std() < FLAT:
        return None
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes(), "big")


def equal(hashes: Hashes) -> list[NDArray[np.int64]]:
    """Return the indices of equal hashes, two or more in a group; the largest groups first."""
    order = np.argsort(hashes, kind="stable")
    return _groups(order, np.flatnonzero(np.diff(hashes[order])) + 1)


def near(hashes: Hashes) -> list[NDArray[np.int64]]:
    """Return groups of indices of hashes linked by steps of at most `NEAR` bits, equal hashes included."""
    distinct, place = np.unique(hashes, return_inverse=True)
    root = np.arange(len(distinct))
    for mask in _MASKS:
        order = np.argsort(distinct & mask, kind="stable")
        key = (distinct & mask)[order]
        sizes = _sizes(key)
        for step in range(1, WHOLE):
            if step in _STEPS:
                kept = (sizes > step) & ((sizes <= WHOLE) | (step <= NEIGHBORS))
                order, key, sizes = order[kept], key[kept], sizes[kept]
            meet = np.flatnonzero(key[:-step] == key[step:])
            if not len(meet):
                break
            a, b = order[meet], order[meet + step]
            apart = root[a] != root[b]
            a, b = a[apart], b[apart]
            close = _bits(distinct[a] ^ distinct[b]) <= NEAR
            root = linked(root, a[close], b[close])
    roots = root[place]
    order = np.argsort(roots, kind="stable")
    return _groups(order, np.flatnonzero(np.diff(roots[order])) + 1)


def _sizes(keys: Hashes) -> NDArray[np.int64]:
    """Return for each of the sorted keys how often it occurs."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    counts = np.diff(np.concatenate([[0], cuts, [len(keys)]]))
    return np.repeat(counts, counts)


def _groups(order: NDArray[np.int64], cuts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the parts of ``order`` between ``cuts`` that have several items. Most have one, and are not made."""
    starts, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(order)]])
    several = np.flatnonzero(ends - starts > 1)
    groups = [np.sort(order[start:end]) for start, end in zip(starts[several], ends[several], strict=True)]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _bits(values: Hashes) -> NDArray[np.uint8]:
    """Return the number of set bits of each hash."""
    counts: NDArray[np.uint8] = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(1, dtype=np.uint8)
    return counts


def linked(root: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the root of each item, the smallest of its group, after every ``a[i]`` is linked with ``b[i]``."""
    while (apart := root[a] != root[b]).any():
        a, b = a[apart], b[apart]
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]
    return root
