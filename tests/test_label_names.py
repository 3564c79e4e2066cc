"""Names of label files that are made of keys, soft masks, and pictures of 16 bits a channel."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzoo import experts, import_labels
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import ExpertInput
from clipzoo.importers._reading.pattern import Pattern
from clipzoo.labeling.colors import survey
from clipzoo.readers.webdataset import write_shard
from making import encoded, image

H, W = 12, 16
RNG = np.random.default_rng(4)
DEPTH = "task=depth&kind=metric&along=z&scale=0.001&invalid=0"


def look_up(uri: str, key: str = "a"):
    (found,) = experts.create(uri).predict_inputs([ExpertInput(key, image(0, (H, W)))])
    return found


# Patterns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key", "name"),
    [
        ("rgb_{n}:sync_depth_{n}", "rgb_00007", "sync_depth_00007"),
        ("{room:path}/rgb_{n}:{room}/sync_depth_{n}", "home/bath_1/rgb_00007", "home/bath_1/sync_depth_00007"),
        (
            "{day}/{drive}/image_02/data/{n}:{drive}/proj_depth/groundtruth/image_02/{n}",
            "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005",
            "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005",
        ),
        (
            "{s}/images/scene_{c}_final_preview/frame.{n}.tonemap:{s}/images/scene_{c}_geometry_hdf5/frame.{n}.depth_meters",
            "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap",
            "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters",
        ),
        ("rgb_{n}:d_{n}", "a/rgb_1", None),
        ("a+{n}:{n}", "aa1", None),
    ],
)
def test_a_pattern_makes_names_of_keys(pattern, key, name):
    assert Pattern.parse(pattern)(key) == name


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("rgb_{n}", "two sides are needed"),
        ("a:b:c", "two sides are needed"),
        ("{n}:{m}", "{m} is not in the key's side"),
        ("{n}_{n}:{n}", "a placeholder comes twice"),
        ("{n:int}:{n}", "a brace belongs to no placeholder"),
    ],
)
def test_what_is_no_pattern_is_refused(tmp_path, pattern, reason):
    with pytest.raises(ExpertError, match=f"pattern=.*{re.escape(reason)}"):
        experts.create(f"files:{tmp_path}?{DEPTH}&pattern={pattern}")


def test_documented_patterns_fit_the_datasets_names():
    names = {
        "NYU Depth V2": ("bath_1/rgb_00007", "bath_1/sync_depth_00007"),
        "KITTI depth": (
            "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005",
            "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005",
        ),
        "Virtual KITTI 2": (
            "Scene01/clone/frames/rgb/Camera_0/rgb_00000", "Scene01/clone/frames/depth/Camera_0/depth_00000",
        ),
        "Hypersim": (
            "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap",
            "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters",
        ),
        "Taskonomy": (
            "rgb/allensville/point_0_view_1_domain_rgb",
            "depth_zbuffer/allensville/point_0_view_1_domain_depth_zbuffer",
        ),
    }  # fmt: skip
    text = (Path(__file__).parent.parent / "docs" / "labels.md").read_text()
    documented = dict(re.findall(r"^\| ([^|]+) \| `(\S*\{\S*:\S*)` \|$", text, re.MULTILINE))
    assert documented.keys() == names.keys()
    for dataset, (key, name) in names.items():
        assert Pattern.parse(documented[dataset])(key) == name


def pairs(folder: Path) -> Path:
    """Pictures and depth as NYU's are named, in one folder a room."""
    for room in ("attic", "bath"):
        (folder / room).mkdir(parents=True)
        for i in range(3):
            (folder / room / f"rgb_{i:05d}.jpg").write_bytes(encoded(image(i), "JPEG"))
            (folder / room / f"rgb_{i:05d}.txt").write_text("a room")
            values = np.full((H, W), 1000 + i, np.uint16)
            (folder / room / f"sync_depth_{i:05d}.png").write_bytes(encoded(values))
    return folder


def test_pairs_of_names_are_imported_by_a_pattern(tmp_path):
    for room in pairs(tmp_path / "nyu").iterdir():  # the depth is no picture of the dataset
        (tmp_path / "depth" / room.name).mkdir(parents=True)
        for path in room.glob("sync_depth_*"):
            path.rename(tmp_path / "depth" / room.name / path.name)
    answers = dict(one.split("=") for one in DEPTH.split("&"))
    with pytest.raises(ExpertError, match=r"the folder has .*sync_depth_0000\d.png.*pattern= makes other names"):
        import_labels(tmp_path / "nyu", tmp_path / "depth", "files", answers, tmp_path / "out", progress=False)
    answers["pattern"] = "{room}/rgb_{n}:{room}/sync_depth_{n}"
    found = import_labels(tmp_path / "nyu", tmp_path / "depth", "files", answers, tmp_path / "out", progress=False)
    assert (found.matched, found.column.labels) == (6, 6)


def test_a_pattern_serves_tars_voc_and_coco(tmp_path):
    write_shard(tmp_path / "0.tar", [("d_1", {"png": encoded(np.full((H, W), 2000, np.uint16))})])
    assert look_up(f"tars:{tmp_path}?{DEPTH}&label=png&pattern=rgb_{{n}}:d_{{n}}", "rgb_1").values[0, 0] == 2
    size = f"<size><width>{W}</width><height>{H}</height></size>"
    (tmp_path / "box_1.xml").write_text(f"<annotation>{size}</annotation>")
    voc = f"voc:{tmp_path}?classes=cat&origin=1&pattern=rgb_{{n}}:box_{{n}}"
    assert len(look_up(voc, "rgb_1").ids) == 0
    with pytest.raises(SampleError, match="pattern= does not fit 'other'"):
        look_up(voc, "other")
    images = f'[{{"id": 1, "file_name": "left/1.jpg", "height": {H}, "width": {W}}}]'
    (tmp_path / "a.json").write_text(f'{{"images": {images}, "categories": [], "annotations": []}}')
    coco = f"coco:{tmp_path}/a.json?classes=all&masks=no&pattern=rgb_{{n}}:left/{{n}}"
    assert experts.create(coco).place("rgb_1") == "left/1"


def test_a_pattern_leads_out_of_no_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "x.png").write_bytes(encoded(np.full((H, W), 2000, np.uint16)))
    with pytest.raises(SampleError, match="leads out of the folder"):
        look_up(f"files:{tmp_path}/in?{DEPTH}&pattern={{n}}:../{{n}}", "x")


# Soft masks ------------------------------------------------------------------------------------------------

SOFT = "task=segmentation&classes=background,hair&void=none&threshold=0.5"
ALPHA = np.tile(np.array([0, 100, 127, 128, 200, 255, 255, 0], np.uint8), (H, W // 8))
HAIR = ALPHA >= 128


def soft(form: str) -> Image.Image | np.ndarray:
    gray = Image.fromarray(ALPHA)
    colors = Image.fromarray(image(1))
    return {
        "gray": gray, "rgb": gray.convert("RGB"), "alpha": Image.merge("RGBA", (*colors.split(), gray)),
        "gray and alpha": Image.merge("LA", (gray.transpose(Image.Transpose.FLIP_TOP_BOTTOM), gray)),
        "16 bits": Image.fromarray(ALPHA.astype(np.uint16) * 257), "floats": (ALPHA / 255).astype(np.float32),
        "bits": HAIR,
    }[form]  # fmt: skip


@pytest.mark.parametrize("form", ["gray", "rgb", "alpha", "gray and alpha", "16 bits", "floats", "bits"])
def test_soft_masks_are_cut_at_a_threshold(tmp_path, form):
    values = soft(form)
    np.save(tmp_path / "a.npy", values) if isinstance(values, np.ndarray) else values.save(tmp_path / "a.png")
    for classes in ("background,hair", "palette:binary"):
        label = look_up(f"files:{tmp_path}?{SOFT.replace('background,hair', classes)}")
        np.testing.assert_array_equal(label.ids, HAIR)
        assert label.valid.all()


def test_an_opaque_picture_is_all_foreground(tmp_path):
    Image.fromarray(image(1)).convert("RGBA").save(tmp_path / "a.png")
    assert look_up(f"files:{tmp_path}?{SOFT}").ids.all()


def test_a_threshold_is_a_share(tmp_path):
    Image.fromarray(ALPHA).save(tmp_path / "a.png")
    label = look_up(f"files:{tmp_path}?{SOFT.replace('0.5', '0.75').replace('none', '100')}")
    np.testing.assert_array_equal(label.ids, ALPHA >= 200)
    np.testing.assert_array_equal(label.valid, ALPHA != 100)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Image.fromarray(image(1)), "a soft mask is gray, or an alpha channel"),
        (lambda: Image.fromarray(ALPHA).convert("RGBA"), "may be the gray or the alpha channel"),
        (lambda: 3 * np.ones((H, W), np.float32), "has 8 or 16 bits, or floats from 0 to 1"),
        (lambda: np.ones((H, W), np.int64), "has 8 or 16 bits"),
    ],
)
def test_what_is_no_soft_mask_has_a_reason(tmp_path, make, reason):
    made = make()
    np.save(tmp_path / "a.npy", made) if isinstance(made, np.ndarray) else made.save(tmp_path / "a.png")
    with pytest.raises(SampleError, match=reason):
        look_up(f"files:{tmp_path}?{SOFT}")


def test_a_threshold_wants_two_classes_and_is_offered(tmp_path):
    for change, reason in (("a,b,c", "has two classes, but classes= names 3"), ("a", "names 1")):
        with pytest.raises(ExpertError, match=reason):
            experts.create(f"files:{tmp_path}?{SOFT.replace('background,hair', change)}")
    with pytest.raises(ExpertError, match="soft masks have no colors"):
        experts.create(f"files:{tmp_path}?{SOFT.replace('none', '%23808080')}")
    Image.fromarray(ALPHA).save(tmp_path / "a.png")
    with pytest.raises(SampleError, match=r"soft mask are read by threshold=0.5: 646464"):
        look_up(f"files:{tmp_path}?task=segmentation&classes=palette:binary&void=none")


def test_soft_masks_are_recognized(tmp_path):
    Image.fromarray(ALPHA).save(tmp_path / "a.png")
    told = dict(one.split("=", 1) for one in survey(tmp_path).advice.split() if "=" in one)
    assert told == {"task": "segmentation", "classes": "background,NAME", "void": "none", "threshold": "0.5"}
    uri = f"files:{tmp_path}?" + "&".join(f"{name}={answer}" for name, answer in told.items())
    np.testing.assert_array_equal(look_up(uri).ids, HAIR)


# 16 bits a channel -----------------------------------------------------------------------------------------


def png16(values: np.ndarray) -> bytes:
    """uint16 [H,W,3] as a PNG, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)}
    chunks |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def normals() -> np.ndarray:
    vectors = RNG.normal(size=(H, W, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


NORMALS = "task=normals&frame=x-right,y-up,z-toward&invalid=none&range="


def test_normals_of_sixteen_bits_are_read_whole(tmp_path):
    truth = normals()
    (tmp_path / "a.png").write_bytes(png16(np.rint((truth + 1) * 65535 / 2).astype(np.uint16)))
    found = np.moveaxis(look_up(f"files:{tmp_path}?{NORMALS}0,65535").vectors, 0, -1).astype(np.float64)
    assert np.degrees(np.linalg.norm(found - truth, axis=-1)).max() < 0.003
    with pytest.raises(SampleError, match=r"holds uint16; is range=0,255 right \(0,65535 of 16-bit PNGs\)"):
        look_up(f"files:{tmp_path}?{NORMALS}0,255")
    write_shard(tmp_path / "0.tar", [("a", {"n.png": (tmp_path / "a.png").read_bytes()})])
    inside = look_up(f"tars:{tmp_path}?label=n.png&{NORMALS}0,65535").vectors
    np.testing.assert_array_equal(np.moveaxis(inside, 0, -1), found.astype(np.float32))


def test_color_coded_classes_of_sixteen_bits_keep_their_colors(tmp_path):
    ids = RNG.integers(0, 2, (H, W))
    (tmp_path / "a.png").write_bytes(png16(np.repeat(ids[..., None], 3, 2).astype(np.uint16) * 65535))
    label = look_up(f"files:{tmp_path}?task=segmentation&classes=palette:binary&void=none")
    np.testing.assert_array_equal(label.ids, ids)


@pytest.mark.parametrize("compression", [1, 8])  # none, deflate
@pytest.mark.parametrize("order", ["<", ">"])
def test_normals_of_sixteen_bits_in_a_tiff(tmp_path, order, compression):
    """Pillow does not write them: a TIFF by hand, one strip."""
    values = np.rint((normals() + 1) * 65535 / 2).astype(np.uint16)
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = pixels if compression == 1 else zlib.compress(pixels)
    entries = [
        (256, 4, 1, W),
        (257, 4, 1, H),
        (258, 3, 3, 8),
        (259, 4, 1, compression),
        (262, 4, 1, 2),
        (273, 4, 1, 14),
    ]
    entries += [(273, 4, 1, 14), (277, 4, 1, 3), (278, 4, 1, H), (279, 4, 1, len(pixels))]
    body = struct.pack(f"{order}HHH", 16, 16, 16) + pixels
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(struct.pack(f"{order}HHII", *e) for e in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    (tmp_path / "a.tif").write_bytes(head + body + directory + bytes(4))
    (tmp_path / "b.png").write_bytes(png16(values))
    uri = f"files:{tmp_path}?{NORMALS}0,65535"
    np.testing.assert_array_equal(look_up(uri).vectors, look_up(uri, "b").vectors)
