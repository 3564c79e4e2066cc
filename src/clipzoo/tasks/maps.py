"""Functions shared by tasks of maps: resampling under a mask, batches, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipzoo.tasks.base import require
from clipzoo.types import BoolArray, FloatArray, View

Map = NDArray[Any]
T = TypeVar("T", bound=np.generic)

KNOWN_SHARE = 0.5 - 1e-4
"""Known share from which on a resampled pixel is known; the tolerance makes ties equal under mirroring."""


def zero_unknown(values: Map, valid: BoolArray) -> Map:
    """Return ``values`` [...,H,W] with zeros where ``valid`` [H,W] is false."""
    require(
        values.shape[-2:] == valid.shape,
        f"values of shape {values.shape} do not fit the validity of shape {valid.shape}; both must have the same H×W",
    )
    return np.where(valid, values, values.dtype.type(0))


def check_map(what: str, values: Map, valid: BoolArray, dtype: type[np.generic], channels: int = 0) -> None:
    """Raise `LabelError` unless ``values`` is ``dtype`` [H,W] or [channels,H,W], and ``valid`` bool [H,W]."""
    rank, shape = (3, f"{channels}×H×W") if channels else (2, "H×W")
    name = np.dtype(dtype).name
    require(
        values.dtype == dtype,
        f"{what} are {values.dtype}; the contract is {name}: convert them with .astype(np.{name})",
    )
    require(
        values.ndim == rank and values.size > 0 and (not channels or values.shape[0] == channels),
        f"{what} have shape {values.shape}; the contract is {shape}, not empty: move or drop axes",
    )
    require(
        valid.dtype == np.bool_,
        f"the validity of {what} is {valid.dtype}; the contract is bool: compare it, as in valid > 0",
    )


def same_size(prediction: Map, truth: Map) -> None:
    """Raise `LabelError` unless two validities have the same H×W."""
    require(
        prediction.shape == truth.shape,
        f"a prediction of {prediction.shape} cannot be compared with a truth of {truth.shape}; resize it to the "
        "truth's size with crop_resize and View.whole",
    )


def resample(
    values: FloatArray, valid: BoolArray, view: View, kind: Image.Resampling = Image.Resampling.BILINEAR
) -> tuple[FloatArray, BoolArray]:
    """Resample the view's crop of a float map to the view's size, bilinear with antialiasing, without its flip.

    Only known values are averaged: values and validity are resampled separately and divided.

    Args:
        values: [C,H,W]; any finite value where not valid.
        valid: [H,W].
        view: its crop and size [h,w] are used.
        kind: the filter.

    Returns:
        [C,h,w], zero where unknown, and its validity [h,w].
    """
    if valid.all():
        return np.stack([_resize(channel, view, kind) for channel in values]), np.ones(view.size, np.bool_)
    weight = _resize(valid.astype(np.float32), view, kind)
    known = weight >= KNOWN_SHARE
    sums = np.stack([_resize(channel, view, kind) for channel in zero_unknown(values, valid)])
    return np.where(known, sums / np.where(known, weight, 1), 0).astype(np.float32), known


def _resize(channel: FloatArray, view: View, kind: Image.Resampling) -> FloatArray:
    height, width = view.size
    box = view.box((channel.shape[0], channel.shape[1]))
    return np.array(Image.fromarray(channel).resize((width, height), kind, box=box))


def resample_codes(
    codes: Map, valid: BoolArray, view: View, convert: Callable[[Map], FloatArray]
) -> tuple[FloatArray, BoolArray]:
    """Return `resample` of ``convert(codes)``, of which only the pixels under the view are computed.

    Args:
        codes: [...,H,W].
        valid: [H,W].
        view: its crop and size are used.
        convert: [...,a,b] -> [C,a,b], pixel by pixel.
    """
    H, W = valid.shape
    x0, y0, x1, y1 = view.box((H, W))
    rows, columns = _under_filter(y0, y1, view.size[0], H), _under_filter(x0, x1, view.size[1], W)
    converted = convert(codes[..., rows, columns])
    values = np.zeros((len(converted), H, W), np.float32)  # not the part: Pillow 13 orders its passes by the height
    values[:, rows, columns] = converted
    return resample(values, valid, view)


def _under_filter(start: float, end: float, count: int, limit: int) -> slice:
    """Return the source pixels of an axis that Pillow's bilinear filter reads, and at most two more at each end."""
    reach = max((end - start) / count, 1.0) + 1
    return slice(max(math.floor(start - reach), 0), min(math.ceil(end + reach), limit))


def nearest(values: Map, view: View) -> Map:
    """Resample the view's crop of ``values`` [H,W] by nearest neighbor: the pixel under each output pixel's center."""
    H, W = values.shape
    x0, y0, x1, y1 = view.box((H, W))
    rows, columns = _under(y0, y1, view.size[0], H), _under(x0, x1, view.size[1], W)
    return np.ascontiguousarray(values[rows[:, None], columns])


def largest(values: NDArray[T], valid: BoolArray, view: View) -> tuple[NDArray[T], BoolArray]:
    """Resample the view's crop of ``values`` [H,W], taking the largest value under each output pixel.

    These are the source pixels whose centers are in the output pixel, or within half a source pixel of its center if
    it is smaller than a source pixel. A center on a border counts on both sides, so mirroring changes nothing.

    Args:
        values: [H,W], >= 0; 0 where not valid.
        valid: [H,W].
        view: its crop and size [h,w] are used.

    Returns:
        [h,w], and its validity [h,w]: known where half of the pixels under it are.
    """
    (height, width), (H, W) = view.size, valid.shape
    x0, y0, x1, y1 = view.box((H, W))
    rows, columns = _within(y0, y1, height, H), _within(x0, x1, width, W)
    top, left = int(rows[0, 0]), int(columns[0, 0])
    part = slice(top, int(rows[-1, 1])), slice(left, int(columns[-1, 1]))
    values, valid, rows, columns = values[part], valid[part], rows - top, columns - left
    most = _over(np.maximum, values, rows, columns)
    if valid.all():
        return most, np.ones(view.size, np.bool_)
    known_count = _over(np.add, valid.astype(np.int32), rows, columns)
    count = (rows[:, 1] - rows[:, 0])[:, None] * (columns[:, 1] - columns[:, 0])
    return most, 2 * known_count >= count


def _within(start: float, end: float, count: int, limit: int) -> NDArray[np.intp]:
    """Return the range of source pixels under each output pixel of an axis, [count,2]."""
    step = (end - start) / count
    centers = start + (np.arange(count) + 0.5) * step
    reach = max(step, 1.0) / 2 + 1e-6  # so that rounding does not break ties
    first, last = np.ceil(centers - reach - 0.5), np.floor(centers + reach - 0.5)
    return np.stack([np.maximum(first, 0), np.minimum(last, limit - 1) + 1], 1).astype(np.intp)


def _over(operation: np.ufunc, values: NDArray[T], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[T]:
    """Reduce ``values`` [H,W] by ``operation`` over each rectangle of ``rows`` [h,2] × ``columns`` [w,2], to [h,w]."""
    padded = np.pad(values, ((0, 1), (0, 1)))  # reduceat requires each end to be an index
    tall = operation.reduceat(padded, rows.ravel(), axis=0)[::2]
    return np.asarray(operation.reduceat(tall, columns.ravel(), axis=1)[:, ::2])


def _under(start: float, end: float, count: int, limit: int) -> NDArray[np.intp]:
    centers = start + (np.arange(count) + 0.5) * ((end - start) / count)
    return np.asarray(np.clip(np.floor(centers), 0, limit - 1), np.intp)


def mirror(values: Map) -> Map:
    """Return ``values`` [...,W] mirrored from left to right."""
    return np.ascontiguousarray(values[..., ::-1])


def batch(labels: Sequence[Any], field: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Return a ``field`` of ``shape`` of labels as a tensor [B,*shape]; zeros for a label that is None."""
    out = np.zeros((len(labels), *shape), dtype)
    for row, label in zip(out, labels, strict=True):
        if label is not None:
            one = getattr(label, field)
            require(
                one.shape == shape,
                f"a label of shape {one.shape} does not fit a batch of {shape}; resize all labels to the view's size",
            )
            row[...] = one
    return torch.from_numpy(out)
