"""Bake the CC0 furniture of Sweet Home 3D into ``src/clipzoo/demo/meshes.npz`` (dev time only, ~2 min).

Input: the unzipped ``BlendSwap-CC-0.sh3f`` of the Debian package ``sweethome3d-furniture``
(every model in it is CC0). Needs ``fast-simplification`` from PyPI, which clipzoo does not depend on.

    apt-get download sweethome3d-furniture && dpkg-deb -x sweethome3d-furniture_*.deb x
    unzip x/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f -d sh3f
    pip install fast-simplification
    python scripts/build_meshes.py sh3f

Each model is welded, decimated to at most ``FACES`` triangles, colored per face from its texture or
material (big textured faces are split first, so that a print survives), turned floor-standing with y
up, scaled to a longest side of 1 and quantized to 16 bits.
"""

from __future__ import annotations

import argparse
import json
import re
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FACES = 1100
OUTPUT = Path(__file__).parents[1] / "src/clipzoo/demo/meshes.npz"

# group (a segmentation class) -> zero-shot name -> catalogue numbers of its models
CHOICE: dict[str, dict[str, list[int]]] = {
    "seating": {
        "chair": [1, 26, 31, 79, 93, 101, 108, 114, 125, 143, 171],
        "armchair": [86, 99, 139],
        "sofa": [21, 67, 95, 112, 132, 140],
        "stool": [42, 45, 118, 168],
        "deck chair": [37, 65],
    },
    "table": {
        "table": [27, 48, 49, 75, 134, 152],
        "pool table": [33],
        "football table": [46],
    },
    "bed": {"bed": [2, 3, 5, 88], "cradle": [87]},
    "cabinet": {
        "cabinet": [4, 68, 74, 98, 144, 154],
        "shelves": [6, 39, 52, 61, 174],
    },
    "appliance": {
        "oven": [16, 28],
        "fridge": [128, 151],
        "mixer": [19],
        "television": [22],
        "radiator": [36, 127],
        "fan": [47],
        "coffee machine": [111],
    },
    "sanitary": {"toilet": [57], "sink": [62, 122, 165], "potty": [84]},
    "lamp": {"lamp": [15, 121], "lantern": [149, 150, 167]},
    "plant": {"plant": [77, 102, 113, 126], "cactus": [107], "flowers": [17, 124, 160]},
    "toy": {
        "teddy bear": [51],
        "rocking horse": [8],
        "playhouse": [109],
        "swing": [110],
        "basketball": [78],
        "wooden toy": [175],
    },
    "animal": {"horse": [97], "deer": [14], "chicken": [94]},
    "vehicle": {
        "motorbike": [123],
        "truck": [158],
        "forklift": [119],
        "biplane": [10],
        "wheelbarrow": [138],
    },
    "music": {"piano": [30], "guitar": [76], "speaker": [43, 44]},
    "food": {"cup": [9, 89], "bottle": [23, 64, 66], "hot dog": [147], "cupcake": [142]},
    "container": {
        "crate": [71, 73],
        "barrel": [72],
        "bin": [115],
        "bag": [106, 120],
    },
    "outdoor": {
        "umbrella": [60],
        "rock": [162, 163, 164],
        "mailbox": [25],
        "fire extinguisher": [82],
    },
}
HELD_OUT = {88, 113, 114, 132, 134, 150, 151, 168, 174}


def catalogue(folder: Path) -> dict[int, dict[str, str]]:
    """Number -> properties of the furniture catalogue."""
    text = (folder / "PluginFurnitureCatalog.properties").read_text("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.M):
        entries.setdefault(int(number), {})[key] = value.strip()
    return entries


def materials(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> ``color`` (3 floats), ``opacity`` and, where textured, ``texture`` (HxWx3 in [0,1])."""
    found: dict[str, dict[str, Any]] = {}
    current: dict[str, Any] = {}
    for line in path.read_text("latin-1").splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "newmtl":
            current = found.setdefault(rest.strip(), {"color": (0.8, 0.8, 0.8), "opacity": 1.0})
        elif key == "Kd":
            current["color"] = tuple(float(v) for v in rest.split()[:3])
        elif key == "d":
            current["opacity"] = float(rest)
        elif key == "map_Kd" and (image := path.parent / rest.strip()).exists():
            with Image.open(image) as opened:
                current["texture"] = np.asarray(opened.convert("RGB"), np.float64) / 255
    return found


def load_obj(path: Path) -> tuple[Floats, Ints, Floats, list[str], dict[str, dict[str, Any]]]:
    """Vertices Vx3, triangles Fx3, uv of each corner Fx3x2, material of each face, materials."""
    vertices: list[list[float]] = []
    uvs: list[list[float]] = [[0.0, 0.0]]
    faces: list[list[int]] = []
    corners: list[list[int]] = []
    names: list[str] = []
    known: dict[str, dict[str, Any]] = {}
    material = ""
    for line in path.read_text("latin-1").splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif key == "vt":
            uvs.append([float(x) for x in rest.split()[:2]])
        elif key == "mtllib":
            known |= materials(path.parent / rest.strip())
        elif key == "usemtl":
            material = rest.strip()
        elif key == "f":
            parts = [p.split("/") for p in rest.split()]
            v = [int(p[0]) - 1 if int(p[0]) > 0 else len(vertices) + int(p[0]) for p in parts]
            t = [int(p[1]) if len(p) > 1 and p[1] else 0 for p in parts]
            for i in range(1, len(v) - 1):
                faces.append([v[0], v[i], v[i + 1]])
                corners.append([t[0], t[i], t[i + 1]])
                names.append(material)
    uv = np.array(uvs)[np.array(corners)]
    return np.array(vertices), np.array(faces), uv, names, known


def point_colors(points_uv: Floats, which: Ints, names: list[str], known: dict[str, Any]) -> Floats:
    """Albedo (Nx3) at uv points, each on face ``which``."""
    colors = np.zeros((len(which), 3))
    labels = np.array(names)[which]
    for label in np.unique(labels):
        chosen = labels == label
        material = known.get(label, {"color": (0.8, 0.8, 0.8)})
        if "texture" in material:
            texture = material["texture"]
            height, width = texture.shape[:2]
            u, v = (points_uv[chosen] % 1.0).T
            y = np.minimum(((1 - v) * height).astype(int), height - 1)
            colors[chosen] = texture[y, np.minimum((u * width).astype(int), width - 1)]
        else:
            colors[chosen] = material["color"]
    return colors


def surface_samples(
    vertices: Floats, faces: Ints, uv: Floats, count: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Ints]:
    """Random points of the surface, uniform by area (and one on every face where they are few): points, uvs, faces."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) + 1e-12
    every = np.arange(len(faces) if len(faces) < 6000 else 0)
    which = np.concatenate([every, rng.choice(len(faces), count, p=area / area.sum())])
    weights = rng.dirichlet((1.0, 1.0, 1.0), len(which))[..., None]
    points = (vertices[faces[which]] * weights).sum(1)
    return points, (uv[which] * weights).sum(1), which


def weld(vertices: Floats, faces: Ints) -> tuple[Floats, Ints]:
    """Merge vertices that coincide; drop faces that vanish."""
    step = np.ptp(vertices, axis=0).max() * 1e-5
    _, first, inverse = np.unique(
        np.round(vertices / step).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    welded = inverse.reshape(-1)[faces]
    distinct = (welded[:, 0] != welded[:, 1]) & (welded[:, 1] != welded[:, 2]) & (welded[:, 0] != welded[:, 2])
    return vertices[first], welded[distinct]


def cluster(vertices: Floats, faces: Ints, cells: int) -> tuple[Floats, Ints]:
    """Merge the vertices of each cell of a grid into their mean; drop faces that vanish or repeat."""
    grid = np.floor(vertices * cells).astype(np.int64)
    _, inverse, counts = np.unique(grid, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    means = np.stack([np.bincount(inverse, vertices[:, i]) / counts for i in range(3)], 1)
    merged = inverse[faces]
    whole = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 0] != merged[:, 2])
    merged = merged[whole]
    _, first = np.unique(np.sort(merged, 1), axis=0, return_index=True)
    return means, merged[np.sort(first)]


def nearest(points: Floats, samples: Floats) -> Ints:
    """Index of the sample nearest to each point."""
    found = []
    points, samples = points.astype(np.float32), samples.astype(np.float32)
    squared = (samples**2).sum(1)
    for chunk in np.array_split(points, max(1, len(points) // 256)):
        found.append(np.argmin(squared[None] - 2 * chunk @ samples.T, axis=1))
    return np.concatenate(found)


INNER = np.array([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4], [3, 3, 1], [3, 1, 3], [1, 3, 3]], float)
INNER /= INNER.sum(1, keepdims=True)


def face_colors(vertices: Floats, faces: Ints, samples: Floats, albedo: Floats) -> tuple[Floats, Floats]:
    """Mean color (Fx3) of each face and how much it varies (F)."""
    points = np.einsum("kc,fcd->fkd", INNER, vertices[faces])
    seen = albedo[nearest(points.reshape(-1, 3), samples)].reshape(len(faces), len(INNER), 3)
    return seen.mean(1), seen.std(1).mean(1)


def split_prints(vertices: Floats, faces: Ints, samples: Floats, albedo: Floats) -> tuple[Floats, Ints]:
    """Bisect the faces whose color varies most, until there are ``FACES`` of them."""
    for _ in range(7):
        room = FACES - len(faces)
        _, spread = face_colors(vertices, faces, samples, albedo)
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        score = np.where((spread > 0.03) & (area > 3e-4), spread * area, 0)
        chosen = np.argsort(-score)[: max(0, min(room, max(32, len(faces) // 2)))]
        chosen = chosen[score[chosen] > 0]
        if room <= 0 or not len(chosen):
            break
        old = faces[chosen]
        corner = vertices[old]
        edges = np.linalg.norm(corner - np.roll(corner, -1, axis=1), axis=2)
        turn = (np.argmax(edges, 1)[:, None] + np.arange(3)) % 3
        p, q, r = np.take_along_axis(old, turn, 1).T
        middle = len(vertices) + np.arange(len(old))
        vertices = np.concatenate([vertices, (vertices[p] + vertices[q]) / 2])
        faces = np.concatenate([np.delete(faces, chosen, 0), np.stack([p, middle, r], 1), np.stack([middle, q, r], 1)])
    return vertices, faces


def bake(entry: dict[str, str], folder: Path) -> dict[str, Any]:
    """One model: ``vertices`` (longest side 1, standing on y = 0), ``faces``, ``colors``, ``meters``."""
    rng = np.random.default_rng(0)
    vertices, faces, uv, names, known = load_obj(folder / entry["model"].strip("/"))
    if "modelRotation" in entry:
        vertices = vertices @ np.array(entry["modelRotation"].split(), float).reshape(3, 3).T
    solid = np.array([known.get(n, {}).get("opacity", 1.0) > 0.25 for n in names])
    solid |= not solid.any()
    faces, uv, names = faces[solid], uv[solid], [n for n, s in zip(names, solid, strict=True) if s]
    vertices = vertices - np.array([0, 1, 0]) * vertices[faces].reshape(-1, 3).min(0)
    low, high = vertices[faces].reshape(-1, 3).min(0), vertices[faces].reshape(-1, 3).max(0)
    scale = 1 / (high - low).max()
    vertices = (vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]) * scale
    samples, points_uv, which = surface_samples(vertices, faces, uv, 15_000, rng)
    albedo = point_colors(points_uv, which, names, known)
    lean, kept = weld(vertices, faces)
    if len(kept) > FACES:
        out, simple = fast_simplification.simplify(
            lean.astype(np.float32), kept.astype(np.int32), target_count=FACES, agg=1
        )
        lean, kept = out.astype(np.float64), simple.astype(np.int64)
    for cells in (90, 75, 60, 50, 42, 36, 31, 27, 24):
        if len(kept) > 2 * FACES:  # many small parts, which quadrics would tear: merge by cells
            lean, kept = cluster(lean, kept, cells)
    lean, kept = split_prints(lean, kept, samples, albedo)
    used, compact = np.unique(kept, return_inverse=True)
    colors, _ = face_colors(lean, kept, samples, albedo)
    sides = [float(entry[k]) / 100 for k in ("width", "depth", "height")]
    return {"vertices": lean[used], "faces": compact.reshape(-1, 3), "colors": colors, "meters": max(sides)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    entries = catalogue(arguments.folder)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, list[Any]] = {"vertices": [], "faces": [], "colours": []}
    numbers_all = [n for names in CHOICE.values() for numbers in names.values() for n in numbers]
    with Pool(2) as pool:
        baked = pool.starmap(bake, [(entries[n], arguments.folder) for n in numbers_all], chunksize=4)
    found = dict(zip(numbers_all, baked, strict=True))
    for group, names in CHOICE.items():
        for name, numbers in names.items():
            for number in numbers:
                mesh = found[number]
                rows.append(
                    {"id": entries[number]["id"].split("#")[1], "name": name, "group": group,
                     "held_out": number in HELD_OUT, "metres": round(mesh["meters"], 3),
                     "vertices": len(mesh["vertices"]), "faces": len(mesh["faces"])}
                )  # fmt: skip
                arrays["vertices"].append(np.round((mesh["vertices"] + 1) * 30_000).clip(0, 65535))
                arrays["faces"].append(mesh["faces"])
                arrays["colours"].append(np.round(mesh["colors"] * 255).clip(0, 255))
                print(number, entries[number]["name"], rows[-1], flush=True)
    np.savez_compressed(
        arguments.output,
        vertices=np.concatenate(arrays["vertices"]).astype(np.uint16),
        faces=np.concatenate(arrays["faces"]).astype(np.uint16),
        colours=np.concatenate(arrays["colours"]).astype(np.uint8),
        table=np.frombuffer(json.dumps(rows).encode(), np.uint8),
    )
    print(len(rows), "meshes", arguments.output.stat().st_size / 1e6, "MB")


if __name__ == "__main__":
    main()
