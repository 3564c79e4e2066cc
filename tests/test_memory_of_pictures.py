"""Large pictures: how many are in memory at once, what is refused, and how the limit is set."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clipzoo import types
from clipzoo.errors import DatasetError, ImageError
from clipzoo.labeling import _batches
from clipzoo.labeling._batches import decoded
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.types import NoRoomError, Room, decode_image
from making import encoded, image, make_dataset, peak

SIZE = 12 * 16


# The limit -------------------------------------------------------------------------------------------------


def limited(limit: str, code: str) -> subprocess.CompletedProcess[str]:
    run = f"from making import encoded, image; from clipzoo.types import decode_image; {code}"
    env = {**os.environ, "CLIPZOO_MAX_PIXELS": limit, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_the_message_names_a_setting_that_works(monkeypatch):
    small = "decode_image(encoded(image(0)))"
    refused = limited("100", f"print({small})")
    assert "the image has 16×12 pixels, more than max_pixels=100" in refused.stderr
    assert "or set the environment variable CLIPZOO_MAX_PIXELS=192" in refused.stderr
    assert limited("192", f"print({small}.shape)").stdout == "(12, 16, 3)\n"


@pytest.mark.slow
def test_the_limit_may_be_above_that_of_pillow():
    code = "from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    assert limited("1_000_000_000", code).stdout == "1000000000\n"
    assert limited("", code).stdout == f"{Image.MAX_IMAGE_PIXELS}\n"


@pytest.mark.parametrize("value", ["many", "0", "-3", "1e8"])
def test_an_invalid_limit_is_refused(value):
    expected = f"CLIPZOO_MAX_PIXELS={value!r} is not a number of pixels; set it like CLIPZOO_MAX_PIXELS=100000000"
    with pytest.raises(DatasetError, match=re.escape(expected)):
        types._limit(value)


def test_the_environment_is_checked_at_import():
    assert "CLIPZOO_MAX_PIXELS='many' is not a number of pixels" in limited("many", "").stderr


def test_a_limit_of_the_caller_names_no_setting():
    with pytest.raises(ImageError, match=r"more than max_pixels=100; shrink it$"):
        decode_image(encoded(image(0)), max_pixels=100)


# One picture -----------------------------------------------------------------------------------------------


def test_a_large_picture_is_held_but_twice():
    data = encoded(np.zeros((5000, 5000, 3), np.uint8), "JPEG")
    before = peak()
    assert decode_image(data).shape == (5000, 5000, 3)
    assert peak() - before < 25_000_000 * 9 / 1024, "7 bytes a pixel, and a strip"


def test_strips_change_no_pixel(monkeypatch):
    """Of no mode, transparency or orientation."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (37, 23, 4), np.uint8), "RGBA")
    palette = rgba.convert("RGB").quantize(16)
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "rgba": (rgba, "PNG", {}),
        "la": (rgba.convert("LA"), "PNG", {}),
        "p": (palette, "PNG", {"transparency": 3}),
        "p bytes": (palette, "PNG", {"transparency": bytes(range(0, 160, 10))}),
        "rgb key": (rgba.convert("RGB"), "PNG", {"transparency": rgba.getpixel((0, 0))[:3]}),
        "l": (rgba.convert("L"), "PNG", {}),
        "1": (rgba.convert("1"), "PNG", {}),
        "16 bit": (Image.fromarray(rng.integers(0, 65536, (37, 23), np.uint16)), "PNG", {}),
        "float": (Image.fromarray(rng.random((37, 23), np.float32)), "TIFF", {}),
        "cmyk": (rgba.convert("RGB").convert("CMYK"), "JPEG", {}),
        "ycbcr": (rgba.convert("RGB").convert("YCbCr"), "TIFF", {}),
        "lab": (Image.frombytes("LAB", (23, 37), rng.bytes(23 * 37 * 3)), "TIFF", {}),
        "turned": (rgba.convert("RGB"), "JPEG", {"exif": turned}),
        "webp": (rgba, "WEBP", {"lossless": True}),
    }
    for name, (picture, form, options) in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        monkeypatch.setattr(types, "STRIP", 10**9)
        whole = decode_image(buffer.getvalue())
        monkeypatch.setattr(types, "STRIP", 23 * 5)
        np.testing.assert_array_equal(decode_image(buffer.getvalue()), whole, name)
        assert whole.flags.writeable


# Several at once -------------------------------------------------------------------------------------------


def test_threads_decode_no_more_pixels_at_once_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(types, "_decoding", Room(2 * SIZE))
    now, most, rgb = [0], [0], types._rgb
    lock = threading.Lock()

    def slow(picture):
        with lock:
            now[0] += picture.width * picture.height
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= picture.width * picture.height
        return rgb(picture)

    monkeypatch.setattr(types, "_rgb", slow)
    sizes = [(12, 16), (24, 32), (12, 16), (12, 16), (6, 16)] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode_image, [encoded(image(i, size)) for i, size in enumerate(sizes)]))
    assert [pixels.shape[:2] for pixels in found] == sizes
    assert most[0] == 4 * SIZE, "one larger than the room goes alone"


def test_a_picture_that_fails_gives_its_room_back(monkeypatch):
    monkeypatch.setattr(types, "_decoding", Room(SIZE))
    for _ in range(3):
        with pytest.raises(ImageError, match="cannot decode"):
            decode_image(encoded(image(0))[:-200])
    assert decode_image(encoded(image(0))).shape == (12, 16, 3)


def test_who_does_not_wait_is_told():
    room = Room(10)
    room.take(50)
    with pytest.raises(NoRoomError):
        room.take(1, wait=False)
    room.give(50)
    room.take(8, wait=False)
    room.take(2, wait=False)
    with pytest.raises(NoRoomError):
        room.take(1, wait=False)


@pytest.mark.slow
def test_a_fork_amid_decoding_has_all_its_room():
    code = (
        "import os; from clipzoo import types; from making import encoded, image\n"
        "types._decoding.take(types.IN_FLIGHT)\n"
        "child = os.fork()\n"
        "if child == 0: print(types.decode_image(encoded(image(0))).shape, flush=True); os._exit(0)\n"
        "os.waitpid(child, 0)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert ended.stdout == "(12, 16, 3)\n", ended.stderr


@pytest.fixture
def held(monkeypatch):
    """Most pixels of images that are decoded and not yet taken; `give` of the room is when they are."""
    most, now, lock = [0], [0], threading.Lock()

    class Counted(Room):
        def take(self, pixels, wait=True):
            super().take(pixels, wait)
            self._count(pixels)

        def force(self, pixels):
            super().force(pixels)
            self._count(pixels)

        def give(self, pixels):
            super().give(pixels)
            self._count(-pixels)

        def _count(self, pixels):
            with lock:
                now[0] += pixels
                most[0] = max(most[0], now[0])

    monkeypatch.setattr(_batches, "Room", Counted)
    monkeypatch.setattr(_batches, "IN_FLIGHT", 3 * SIZE)
    yield most
    assert now[0] == 0, "all of it is given back"


@pytest.mark.parametrize("threads", [1, 4])
def test_images_decoded_ahead_are_bounded_by_their_pixels(tmp_path, held, threads):
    reader = open_dataset(str(make_dataset(tmp_path / "data", shards=1, count=40)))
    with ThreadPoolExecutor(threads) as pool:
        found = []
        for sample in decoded(reader, reader.index("00000"), pool, ahead=30):
            time.sleep(0.001)  # all that may be decoded is
            found.append(sample)
    assert [sample.key for sample in found] == [f"{i:06d}" for i in range(40)]
    assert all(np.array_equal(sample.image, image(i)) for i, sample in enumerate(found))
    assert held[0] <= 4 * SIZE, "the room, and the next one"


def test_a_picture_larger_than_the_room_and_a_damaged_one_come_in_their_turn(tmp_path, held):
    sizes = [(12, 16)] * 12
    sizes[0] = sizes[5] = sizes[6] = sizes[11] = (60, 60)
    members = [(f"{i:02d}", {"png": encoded(image(i, size)), "txt": b"a"}) for i, size in enumerate(sizes)]
    members[3][1]["png"] = members[3][1]["png"][:-300]
    write_shard(tmp_path / "data" / "0.tar", members)
    reader = open_dataset(str(tmp_path / "data"))
    with ThreadPoolExecutor(3) as pool:
        found = list(decoded(reader, reader.index("0"), pool, ahead=8))
    shapes = [None if sample.image is None else sample.image.shape[:2] for sample in found]
    assert shapes == [*sizes[:3], None, *sizes[4:]]
    assert held[0] <= 3 * SIZE + 60 * 60


def test_encoders_that_wait_for_threads_are_not_kept_from_them(tmp_path, held):
    """Labels are encoded by the threads that decode, before the next images are taken."""
    reader = open_dataset(str(make_dataset(tmp_path / "data", shards=1, count=20)))
    with ThreadPoolExecutor(2) as pool:
        for _ in decoded(reader, reader.index("00000"), pool, ahead=10):
            assert pool.submit(int, "7").result(timeout=30) == 7
