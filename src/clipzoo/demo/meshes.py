"""The furniture of the embedded world: real CC0 models, decimated, with a color per face.

Baked by ``scripts/build_meshes.py`` from the CC0 furniture of Sweet Home 3D.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROOM = ("floor", "wall", "ceiling")
"""The first segmentation classes, which are not objects."""


@dataclass(frozen=True)
class Mesh:
    """A model with longest side 1 and its lowest point at y = 0, y up."""

    id: str
    name: str  # its zero-shot name
    group: str  # its segmentation class
    held_out: bool  # in no training split
    meters: float  # longest side, from the catalog
    vertices: Floats  # Vx3
    faces: NDArray[np.int64]  # Fx3
    colors: Floats  # Fx3 albedo in [0, 1]


@lru_cache(maxsize=1)
def meshes() -> tuple[Mesh, ...]:
    """Return all packaged meshes, in a fixed order."""
    with (
        resources.files("clipzoo.demo").joinpath("meshes.npz").open("rb") as file,
        np.load(file) as pack,
    ):
        table = json.loads(pack["table"].tobytes())
        vertices = pack["vertices"].astype(np.float32) / 30_000 - 1
        faces = pack["faces"].astype(np.int64)
        colors = pack["colours"].astype(np.float32) / 255
    loaded = []
    v = f = 0
    for row in table:
        v_end, f_end = v + row["vertices"], f + row["faces"]
        loaded.append(
            Mesh(
                id=row["id"],
                name=row["name"],
                group=row["group"],
                held_out=row["held_out"],
                meters=row["metres"],
                vertices=vertices[v:v_end],
                faces=faces[f:f_end],
                colors=colors[f:f_end],
            )
        )
        v, f = v_end, f_end
    return tuple(loaded)


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Return the zero-shot names, in the order of the meshes."""
    return tuple(dict.fromkeys(mesh.name for mesh in meshes()))


@lru_cache(maxsize=1)
def classes() -> tuple[str, ...]:
    """Return the segmentation classes: floor, wall, ceiling, then the groups of furniture."""
    return (*ROOM, *dict.fromkeys(mesh.group for mesh in meshes()))


@lru_cache(maxsize=2)
def by_name(held_out: bool) -> dict[str, tuple[int, ...]]:
    """Return name -> indices of its meshes, either of the held-out meshes or of all others."""
    chosen = {
        name: tuple(i for i, m in enumerate(meshes()) if m.name == name and m.held_out == held_out) for name in names()
    }
    return {name: indices for name, indices in chosen.items() if indices}
