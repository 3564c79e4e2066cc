"""Objects of a label as records of COCO's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipzoo.tasks.detection import Detection


def records(label: Detection, classes: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the objects of a picture: box xywh in pixels, class, score, ignored, and mask if there is one."""
    masks = label.masks or (None,) * len(label.ids)
    rows = zip(label.boxes.tolist(), label.ids.tolist(), label.scores, label.ignored.tolist(), masks, strict=True)
    for (x0, y0, x1, y1), kind, score, ignored, mask in rows:
        record: dict[str, object] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category": classes[kind]}
        record |= {"category_id": kind, "score": float(str(score)), "iscrowd": int(ignored)}
        if mask is not None:
            record["segmentation"] = {"size": list(label.size), "counts": mask}
        yield record
