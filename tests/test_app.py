"""``clipzoo app`` without Gradio: the surface of a depth map, and the command where Gradio is missing."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipzoo.app import mesh
from clipzoo.cli import app
from clipzoo.errors import ClipzooError, LabelError
from clipzoo.tasks.depth import Depth


def depth(values: np.ndarray, kind: str = "metric", along: str | None = "z", valid: np.ndarray | None = None) -> Depth:
    known = np.ones(values.shape, np.bool_) if valid is None else valid
    return Depth(values.astype(np.float32), known, kind, along)  # type: ignore[arg-type]


def parts(file: bytes) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray, bytes]:
    """The JSON, points, texture coordinates, triangles and texture of a file, by the specification."""
    magic, version, length = struct.unpack_from("<4sII", file)
    assert (magic, version, length) == (b"glTF", 2, len(file))
    size, kind = struct.unpack_from("<I4s", file, 12)
    assert (kind, size % 4) == (b"JSON", 0)
    scene = json.loads(file[20 : 20 + size])
    rest, kind = struct.unpack_from("<I4s", file, 20 + size)
    assert (kind, rest) == (b"BIN\0", scene["buffers"][0]["byteLength"])
    data = file[28 + size :]
    pieces = [data[v["byteOffset"] : v["byteOffset"] + v["byteLength"]] for v in scene["bufferViews"]]
    assert all(view["byteOffset"] % 4 == 0 for view in scene["bufferViews"])
    points, across = np.frombuffer(pieces[0], "<f4").reshape(-1, 3), np.frombuffer(pieces[1], "<f4").reshape(-1, 2)
    triangles = np.frombuffer(pieces[2], "<u4").reshape(-1, 3)
    counts = [accessor["count"] for accessor in scene["accessors"]]
    assert counts == [len(points), len(across), triangles.size]
    np.testing.assert_allclose(points.min(0), scene["accessors"][0]["min"])
    return scene, points, across, triangles, pieces[3]


def test_a_wall_becomes_a_rectangle_of_its_size() -> None:
    """At 90 degrees and 2 m, the longer side of the picture covers 4 m less a pixel."""
    image = np.zeros((40, 80, 3), np.uint8)
    _, points, across, triangles, texture = parts(mesh.glb(image, depth(np.full((40, 80), 2.0)), 90))
    np.testing.assert_allclose(np.ptp(points, 0), [4 * 79 / 80, 4 * 39 / 80, 0], atol=1e-6)
    np.testing.assert_allclose(points[0], [-4 * 79 / 160, 4 * 39 / 160, 0], atol=1e-6)
    np.testing.assert_allclose(across[0], [0.5 / 80, 0.5 / 40])
    assert len(triangles) == 2 * 39 * 79
    a, b, c = (points[triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()  # counterclockwise for a viewer at +z
    assert Image.open(io.BytesIO(texture)).size == (80, 40)


def test_depth_along_rays_is_a_sphere() -> None:
    points, _ = mesh.positions(depth(np.full((30, 50), 3.0), along="ray"), 60)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 3, rtol=1e-5)


@pytest.mark.parametrize(("kind", "nearer"), [("affine-depth", -1), ("affine-disparity", 1)])
def test_depth_without_a_scale_lies_between_one_and_three(kind: str, nearer: int) -> None:
    values = np.linspace(-5, 7, 600).reshape(20, 30)
    points, _ = mesh.positions(depth(values, kind, None), 60)
    found = -points[..., 2].reshape(-1)[::-nearer]
    np.testing.assert_allclose([found[0], found[-1]], [1, 3], atol=1e-6)
    assert (np.diff(found) >= 0).all()


def test_unknown_pixels_and_jumps_are_gaps() -> None:
    values, valid = np.ones((10, 10)), np.ones((10, 10), np.bool_)
    values[:, 5:] = 2
    valid[0, 0] = False
    *_, triangles, _ = parts(mesh.glb(np.zeros((10, 10, 3), np.uint8), depth(values, valid=valid)))
    assert len(triangles) == 2 * 9 * 9 - 2 * 9 - 2
    assert 0 not in triangles
    with pytest.raises(LabelError, match="no connected surface"):
        mesh.glb(np.zeros((10, 10, 3), np.uint8), depth(values, valid=np.zeros((10, 10), np.bool_)))


def test_large_depth_maps_are_thinned_out() -> None:
    points, known = mesh.positions(depth(np.ones((1000, 500))), 60)
    assert points.shape == (mesh.SIDE, mesh.SIDE // 2, 3)
    assert known.all()


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClipzooError, match=r"Gradio, which is not installed. Run `pip install 'clipzoo\[app\]'`"):
        CliRunner().invoke(app, ["app", str(tmp_path)], catch_exceptions=False)
