"""A corpus of what real crawls and ill will put into datasets, built by script: pictures, captions, tars.

    python tests/hostile.py FOLDER     writes it as shards, as a folder, as tables

Every item says whether it can be used, so that tests can demand that each is used or refused with a reason.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageCms

GOOD_CAPTION = b"a plain caption"


@dataclass(frozen=True)
class Item:
    """One sample: an image and its caption with their extensions, and whether it can be used."""

    name: str
    image: bytes
    usable: bool
    extension: str = "jpg"
    caption: bytes = GOOD_CAPTION
    caption_extension: str = "txt"


def noise(height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(picture: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG put together by hand, for what Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Pictures --------------------------------------------------------------------------------------------------


def pictures() -> list[Item]:
    """Every picture, sound or not."""
    return [
        Item(name, data, usable, *rest) for maker in (_sound, _odd, _broken) for name, data, usable, *rest in maker()
    ]


def _sound() -> Iterator[tuple[object, ...]]:
    """Usual files of every kind."""
    color, gray = noise(), noise(channels=1)
    for form, extension in (
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("GIF", "gif"),
        ("JPEG2000", "jp2"),
    ):
        yield f"plain-{extension}", saved(color, form), True, extension
    yield "plain-jpg", saved(color, "JPEG"), True
    yield "progressive", saved(color, "JPEG", progressive=True), True
    yield "gray", saved(gray, "JPEG"), True
    yield "one-bit", saved(Image.fromarray(gray).convert("1"), "PNG"), True, "png"
    yield "lossless-webp", saved(color, "WEBP", lossless=True), True, "webp"
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    for form, extension in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tiff")):
        yield f"animated-{extension}", saved(frames[0], form, save_all=True, append_images=frames[1:]), True, extension
    yield "two-pictures-mpo", saved(frames[0], "MPO", save_all=True, append_images=frames[1:]), True
    yield "palette", saved(Image.fromarray(color).convert("P"), "PNG"), True, "png"
    yield "palette-transparent", saved(Image.fromarray(color).convert("P"), "PNG", transparency=3), True, "png"
    yield "alpha", saved(noise(channels=4), "PNG"), True, "png"
    yield "gray-alpha", saved(Image.fromarray(gray).convert("LA"), "PNG"), True, "png"
    yield "cmyk", saved(Image.fromarray(color).convert("CMYK"), "JPEG"), True
    yield "lab-tiff", saved(Image.fromarray(color).convert("LAB"), "TIFF"), True, "tif"
    yield "ycbcr-tiff", saved(Image.fromarray(color).convert("YCbCr"), "TIFF"), True, "tif"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "icc", saved(color, "JPEG", icc_profile=icc), True
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif-{orientation}", saved(color, "JPEG", exif=exif), True


def _odd() -> Iterator[tuple[object, ...]]:
    """What is rare, and yet a picture."""
    color = noise()
    deep = np.random.default_rng(0).integers(0, 2**16, (24, 32), dtype=np.uint16)
    yield "16-bit-gray", saved(deep, "PNG"), True, "png"
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.repeat(deep[..., None], 3, 2))
    yield "16-bit-rgb", png(32, 24, 16, 2, rows), True, "png"
    yield "16-bit-tiff", saved(deep, "TIFF"), True, "tif"
    floats = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    yield "float-tiff", saved(floats, "TIFF"), True, "tif"
    yield "nan-tiff", saved(np.where(floats > 0.5, np.nan, floats).astype(np.float32), "TIFF"), True, "tif"
    yield "infinite-tiff", saved(np.where(floats > 0.5, np.inf, floats).astype(np.float32), "TIFF"), True, "tif"
    yield "32-bit-tiff", saved((deep.astype(np.int32) * 3000) - 10**6, "TIFF"), True, "tif"
    yield "1x1", saved(noise(1, 1), "PNG"), True, "png"
    yield "1x10000", saved(noise(10_000, 1), "PNG"), True, "png"
    yield "10000x1", saved(noise(1, 10_000), "JPEG"), True
    yield "wrong-extension", saved(color, "PNG"), True
    yield "trailing-rubbish", saved(color, "JPEG") + os.urandom(1000), True
    yield "icc-damaged", saved(color, "JPEG", icc_profile=b"no profile at all"), True
    yield "exif-damaged", saved(color, "JPEG", exif=b"Exif\0\0" + b"\xff" * 40), True
    yield "exif-orientation-99", saved(color, "JPEG", exif=_exif(99)), True
    yield "comment-64k", saved(color, "JPEG", comment=b"x" * 65_000), True
    yield "tiny-text-chunk", saved(color, "PNG", dpi=(300, 300)), True, "png"


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _broken() -> Iterator[tuple[object, ...]]:
    """What is no picture, or not to be decoded."""
    large = noise(96, 128)
    for form, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("TIFF", "tif")):
        data = saved(large, form)
        for percent in (1, 30, 70):
            yield f"cut-{percent}-{extension}", data[: max(len(data) * percent // 100, 3)], False, extension
    yield "empty", b"", False
    yield "one-byte", b"\xff", False
    yield "html", b"<!doctype html><title>404 Not Found</title>" + b" " * 500, False
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", False
    yield "eps", saved(noise(), "EPS"), False
    yield "rubbish", np.random.default_rng(1).bytes(5000), False
    yield "zeros", bytes(5000), False
    yield "bomb-400-megapixels", saved(Image.new("1", (20_000, 20_000)), "PNG"), False, "png"
    yield "bomb-120-megapixels", saved(Image.new("1", (12_000, 10_000)), "PNG"), False, "png"
    yield "claims-2-31-pixels-wide", png(2**31 - 1, 1, 8, 2, bytes(10)), False, "png"
    yield "claims-no-height", png(8, 0, 8, 2, b""), False, "png"
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    yield "text-bomb", png(4, 4, 8, 0, bytes(20), text), False, "png"
    yield "wrong-checksum", saved(noise(), "PNG").replace(b"IDAT", b"IDAX", 1), False, "png"
    yield "a-tar", _tar([("x.jpg", saved(noise(), "JPEG"))]), False


# Captions --------------------------------------------------------------------------------------------------


def captions() -> list[Item]:
    """A sound picture with every kind of caption."""
    fair: list[tuple[str, bytes, bool, str]] = [
        ("empty", b"", False, "txt"),
        ("blank", b" \r\n\t", False, "txt"),
        ("100-kB", b"word " * 20_000, True, "txt"),
        ("2-MB", b"word " * 400_000, False, "txt"),
        ("one-long-word", b"x" * 100_000, True, "txt"),
        ("latin-1", "caf\xe9".encode("latin-1"), False, "txt"),
        ("utf-16", "caption".encode("utf-16"), False, "txt"),
        ("bom", b"\xef\xbb\xbfcaption", True, "txt"),
        ("arabic", "قطة على الطاولة".encode(), True, "txt"),
        ("hebrew-marks", "\u202eחתול\u202c על שולחן".encode(), True, "txt"),
        ("chinese", "桌子上的猫".encode(), True, "txt"),
        ("emoji", "👩‍👩‍👧 🐈".encode(), True, "txt"),
        ("control", b"a\x00b\x07c\x1b[31m", True, "txt"),
        ("html", b"<b>Buy</b> <script>alert(1)</script>", True, "txt"),
        ("address", b"https://example.com/a.jpg", True, "txt"),
        ("file-name", b"IMG_1234.jpg", True, "txt"),
        ("json", b'{"caption": "from json"}', True, "json"),
        ("json-null", b'{"caption": null}', False, "json"),
        ("json-deep", b"[" * 50_000, False, "json"),
        ("json-surrogate", b'{"caption": "\\ud800"}', False, "json"),
        ("json-number", b'{"caption": ' + b"9" * 10_000 + b"}", False, "json"),
    ]
    picture = saved(noise(seed=5), "JPEG")
    return [Item(f"caption-{name}", picture, ok, "jpg", data, ext) for name, data, ok, ext in fair]


def items() -> list[Item]:
    return [*pictures(), *captions()]


# As datasets -----------------------------------------------------------------------------------------------


def _tar(members: list[tuple[str, bytes | tarfile.TarInfo]], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, what in members:
            info = what if isinstance(what, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return buffer.getvalue()


def _members(one: Item) -> list[tuple[str, bytes | tarfile.TarInfo]]:
    return [(f"{one.name}.{one.extension}", one.image), (f"{one.name}.{one.caption_extension}", one.caption)]


def as_shards(folder: Path, count: int = 1) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        members = [member for one in items()[i::count] for member in _members(one)]
        (folder / f"{i:05d}.tar").write_bytes(_tar(members))
    return str(folder)


def as_folder(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for one in items():
        for name, data in _members(one):
            (folder / name).write_bytes(data)  # type: ignore[arg-type]
    return str(folder)


def as_table(folder: Path) -> str:
    """A CSV beside the images; captions that a CSV cannot hold (bytes of JSON) are plain ones there."""
    as_folder(folder)
    with (folder / "all.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "image", "caption"])
        for one in items():
            text = one.caption.decode("utf-8", "surrogateescape") if one.caption_extension == "txt" else "plain"
            writer.writerow([one.name, f"{one.name}.{one.extension}", text])
    return str(folder / "all.csv")


def as_parquet(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = [one.caption.decode("utf-8", "replace") if one.caption_extension == "txt" else "plain" for one in items()]
    table = {"key": [one.name for one in items()], "image": [one.image for one in items()], "caption": text}
    pq.write_table(pa.table(table), folder / "all.parquet", row_group_size=20)
    return str(folder / "all.parquet")


DATASETS: dict[str, Callable[[Path], str]] = {
    "shards": as_shards, "folder": as_folder, "table": as_table, "parquet": as_parquet,
}  # fmt: skip


# Tars ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crafted:
    """A tar, how many samples of it can be used, and how many rows say why not; -1: the whole is refused."""

    name: str
    data: bytes
    usable: int
    refused: int


def _special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _lying(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header alone, which claims ``size`` bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def tars() -> list[Crafted]:
    """Tars that are odd as a whole; sound pictures in all of them."""
    picture = saved(noise(), "JPEG")

    def pair(key: str) -> list[tuple[str, bytes | tarfile.TarInfo]]:
        return [(f"{key}.jpg", picture), (f"{key}.txt", GOOD_CAPTION)]

    def beside(info: tarfile.TarInfo) -> bytes:
        return _tar([("c.jpg", info), ("c.txt", b"c"), *b])

    def behind(header: bytes) -> bytes:
        """After the sound sample b, with no end mark."""
        return _strip(_tar(b)) + header + bytes(2048)

    a, b = pair("a"), pair("b")
    whole = _tar([*a, *b])
    second = whole.index(b"b.jpg")
    sparse = _lying("c.jpg", 512, tarfile.GNUTYPE_SPARSE) + bytes(512)
    return [
        Crafted("sound", whole, 2, 0),
        Crafted("gnu", _tar([*a, *b], format=tarfile.GNU_FORMAT), 2, 0),
        Crafted("old", _tar([*a, *b], format=tarfile.USTAR_FORMAT), 2, 0),
        Crafted("pax", _tar([*a, *b], format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 3000}), 2, 0),
        Crafted("long-names-gnu", _tar(pair("k" * 400), format=tarfile.GNU_FORMAT), 1, 0),
        Crafted("long-names-pax", _tar(pair("ü" * 200), format=tarfile.PAX_FORMAT), 1, 0),
        Crafted("folders", _tar([("in", _special("in", tarfile.DIRTYPE)), *pair("in/a"), *pair("./in/b")]), 2, 0),
        Crafted("again", _tar([*a, *b, *a]), 2, 1),
        Crafted("interleaved", _tar([a[0], b[0], a[1], b[1]]), 2, 0),
        Crafted("up", _tar([*pair("../up"), *b]), 1, 1),
        Crafted("absolute", _tar([*pair("/etc/a"), *b]), 1, 1),
        Crafted("backslash", _tar([*pair("..\\a"), *b]), 1, 2),
        Crafted("not-utf-8", _tar([*pair("\udcff"), *b]), 1, 1),
        Crafted("hidden", _tar([("._a.jpg", b"x"), *a, *b]), 2, 0),
        Crafted("symlink", beside(_special("c.jpg", tarfile.SYMTYPE, "/etc/passwd")), 1, 1),
        Crafted("hardlink", beside(_special("c.jpg", tarfile.LNKTYPE, "b.jpg")), 1, 1),
        Crafted("device", beside(_special("c.jpg", tarfile.CHRTYPE)), 1, 1),
        Crafted("pipe", beside(_special("c.jpg", tarfile.FIFOTYPE)), 1, 1),
        Crafted("sparse", sparse + _tar([("c.txt", b"c"), *b]), 1, 1),
        Crafted("nested", _tar([("c.jpg", whole), ("c.txt", b"c"), *b]), 1, 1),
        Crafted("other-members", _tar([*a, ("a.npy", bytes(9)), ("a.cls", b"1"), *b]), 2, 0),
        Crafted("no-caption", _tar([a[0], *b]), 1, 1),
        Crafted("no-image", _tar([a[1], *b]), 1, 1),
        Crafted("claims-2-GB", behind(_lying("c.jpg", 2**31)), 1, 1),
        Crafted("claims-8-EB", behind(_lying("c.jpg", 2**62)), 1, 1),
        Crafted("claims-less-than-nothing", behind(_lying("c.jpg", -1024)), 1, 1),
        Crafted("name-of-2-GB", behind(_lying("././@LongLink", 2**31, tarfile.GNUTYPE_LONGNAME)), 1, 1),
        Crafted("pax-of-2-GB", behind(_lying("pax", 2**31, tarfile.XHDTYPE)), 1, 1),
        Crafted("no-end-mark", _strip(whole), 2, 1),
        Crafted("cut-in-header", whole[: second + 100], 1, 1),
        Crafted("cut-in-image", whole[: second + 700], 1, 1),
        Crafted("behind-each-other", _tar(a) + _tar(b), 1, 1),
        Crafted("no-bytes", b"", 0, 1),
        Crafted("no-tar", b"this is no tar " * 100, 0, 1),
        Crafted("no-members", _tar([]), 0, 0),
        Crafted("packed", gzip.compress(whole), -1, -1),
    ]  # fmt: skip


def _strip(tar: bytes) -> bytes:
    """Without the end mark and what fills the last record."""
    return tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    where = {name: make(out / name) for name, make in DATASETS.items()}
    (out / "tars").mkdir(exist_ok=True)
    for one in tars():
        (out / "tars" / f"{one.name}.tar").write_bytes(one.data)
    print(json.dumps({"items": len(items()), "tars": len(tars()), **where}, indent=2))
