"""The one image decoder, on what real datasets hold."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clipzoo.errors import ImageError
from clipzoo.types import decode_image
from making import encoded, image

UPRIGHT = np.zeros((48, 64, 3), np.uint8)
UPRIGHT[:24, :32], UPRIGHT[:24, 32:], UPRIGHT[24:, :32] = (250, 20, 20), (20, 250, 20), (20, 20, 250)

# EXIF orientation n: what must be done to the upright picture so that a viewer that applies n sees it upright.
UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def saved(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation, form):
    stored = Image.fromarray(np.ascontiguousarray(UNDO[orientation](UPRIGHT)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = decode_image(saved(stored, form, exif=exif))
    assert seen.shape == UPRIGHT.shape
    corners = seen[[12, 12, 36], [16, 48, 16]].astype(int)
    assert np.abs(corners - UPRIGHT[[12, 12, 36], [16, 48, 16]]).max() < 12


def test_rgb_png_is_exact():
    assert np.array_equal(decode_image(encoded(image(0))), image(0))


def test_cmyk_jpeg_becomes_rgb():
    picture = Image.new("RGB", (16, 8), (200, 40, 40)).convert("CMYK")
    seen = decode_image(saved(picture, "JPEG"))
    assert seen.shape == (8, 16, 3)
    assert np.abs(seen.astype(int) - (200, 40, 40)).max() < 12


def test_16_bit_gray_png_is_scaled():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    seen = decode_image(saved(Image.fromarray(ramp), "PNG"))
    assert seen.dtype == np.uint8
    assert np.abs(seen[..., 0].astype(float) - ramp / 257).max() <= 0.5 + 1e-6
    assert (seen[..., 0] == seen[..., 2]).all()


def test_16_bit_gray_tiff_and_float_tiff_are_scaled():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    seen = decode_image(saved(Image.fromarray(ramp), "TIFF"))
    assert seen[0, 0, 0] == 0
    assert seen[-1, -1, 0] == 255
    deep = decode_image(saved(Image.fromarray((ramp * 65535).astype(np.uint16)), "TIFF"))
    assert np.abs(deep.astype(int) - seen).max() <= 1


def test_palette_with_alpha_is_laid_over_white():
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((3, 1), 1)
    seen = decode_image(saved(picture, "PNG", transparency=0))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[1, 3].tolist() == [0, 255, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    color = (100, 150, 200, 0) if mode == "RGBA" else (100, 0)
    assert (decode_image(saved(Image.new(mode, (3, 2), color), "PNG")) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white(mode):
    seen = decode_image(saved(Image.new(mode, (3, 2), 255 if mode == "L" else 1), "PNG"))
    assert seen.shape == (2, 3, 3)
    assert (seen == 255).all()


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    seen = decode_image(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert seen[0, 0].tolist() == [255, 0, 0]


def test_a_bomb_is_refused_before_its_pixels_are_decoded():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageError, match="too many pixels"):
        decode_image(bomb)
    with pytest.raises(ImageError, match="12000×10000 pixels, more than max_pixels"):
        decode_image(saved(Image.new("1", (12_000, 10_000)), "PNG"))


def test_threads_leave_the_warning_filters_as_they_were():
    large = saved(Image.new("1", (10_000, 9_500)), "PNG")  # Pillow warns; every warning is an error here
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(_header_only, [large, encoded(image(0))] * 20))
    assert warnings.filters == before
    assert set(shapes) == {"too large", (12, 16, 3)}


def test_filters_of_others_survive_a_decode(monkeypatch):
    # A package that is imported in one thread ignores one of its warnings for good, while another thread decodes.
    class Ours(UserWarning):
        pass

    opened = Image.open

    def meanwhile(*args, **kwargs):
        warnings.simplefilter("ignore", Ours)
        return opened(*args, **kwargs)

    with warnings.catch_warnings():
        monkeypatch.setattr(Image, "open", meanwhile)
        before = list(warnings.filters)
        decode_image(encoded(image(0)))
        assert warnings.filters == [("ignore", None, Ours, None, 0), *before]
        warnings.warn("nothing is raised", Ours, stacklevel=1)


def _header_only(data: bytes) -> object:
    try:
        return decode_image(data, max_pixels=90_000_000).shape
    except ImageError as error:
        return "too large" if "max_pixels" in str(error) else str(error)


def test_size_limit_is_the_callers():
    with pytest.raises(ImageError, match="max_pixels=100"):
        decode_image(encoded(image(0)), max_pixels=100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"<html>not found</html>",
        encoded(image(0))[:150],
        encoded(image(0, (64, 64)), "JPEG")[:900],
    ],
    ids=["empty", "head only", "html", "cut png", "cut jpeg"],
)
def test_what_is_no_image_says_so(data):
    with pytest.raises(ImageError, match=f"{len(data)} bytes"):
        decode_image(data)


def test_damaged_exif_does_not_cost_the_image():
    broken = encoded(image(0), "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF header")
    assert decode_image(broken).shape == (12, 16, 3)
