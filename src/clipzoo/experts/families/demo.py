"""Families of the embedded demo experts."""

from collections.abc import Mapping

from clipzoo.experts.base import Family

GIVES: Mapping[str, str] = {
    "segmentation": "18 classes: floor, wall, ceiling and furniture; no void",
    "detection": "15 classes of furniture; doubtful boxes are ignored",
    "depth": "metric, along z",
    "normals": "x right, y up, z toward the viewer",
    "edges": "outlines and creases of shapes, not of patterns",
}
FAMILIES = tuple(Family(f"demo:{task}", task, gives, "docs/demo.md", seen=True) for task, gives in GIVES.items())
