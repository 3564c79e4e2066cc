"""The manifest of a column in words, for tables and pages."""

from __future__ import annotations

from clipzoo.store.column import Column


def summary(column: Column) -> dict[str, str]:
    """Return the manifest of a column as heading -> text, in display order."""
    manifest = column.manifest
    counts, expert = manifest.counts, manifest.expert
    convention = {**manifest.convention}
    if "classes" in convention:
        convention["classes"] = f"{len(column.convention.classes)} names"
    per_label = counts.bytes / counts.labels if counts.labels else 0.0
    return {
        "column": column.name,
        "expert": str(expert.get("uri", "")),
        "convention": ", ".join(f"{name}: {value}" for name, value in convention.items()) or "–",
        "license": str(expert.get("licence", "unknown")),
        "weights": str(expert.get("weights_sha256", ""))[:12] or "–",
        "shards": str(counts.shards),
        "labels": str(counts.labels),
        "failures": str(counts.failures),
        "bytes a label": f"{per_label:,.0f}",
        "seconds": f"{manifest.seconds:,.1f}",
        "images/s": f"{(counts.labels + counts.failures) / manifest.seconds:,.1f}" if manifest.seconds else "–",
    }
