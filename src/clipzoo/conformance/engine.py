"""``check`` and ``short``: an expert is asked about pictures, and its answers judged line by line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from clipzoo.conformance import geometry, meaning, running, spaces
from clipzoo.conformance.card import Card, Verdict
from clipzoo.conformance.pictures import MOST, alike
from clipzoo.conformance.scenes import scenes
from clipzoo.errors import ClipzooError, ExpertError, LabelError
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import ImageArray

BRIEF, CHANGED = 8, 6
"""Pictures of a short check, and how many of them are mirrored, stretched, and cropped: no fewer decide anything."""

BATCH = 1 / 6
"""The share of the seconds for pictures of all sizes that one batch may take."""

Pictures = Sequence[ImageArray | ExpertInput]


def check(
    expert: Expert,
    images: Pictures | None = None,
    *,
    partner: Expert | None = None,
    device: str = "cpu",
    seconds: float = 60.0,
    brief: bool = False,
) -> Card:
    """Whether an expert keeps its contract, line by line.

    Args:
        expert: not yet loaded; loading it is the first line.
        images: uint8 H×W×3 RGB, or whole samples; the first `MOST` are used, brought to one size. By default rendered
            scenes. Depth and normals are held against rendered scenes in any case.
        partner: an expert of depth if ``expert`` gives normals, or the other way round, not yet loaded: they are held
            against each other on ``images``.
        device: where experts run.
        seconds: what pictures of all sizes may take together; larger ones are skipped, and the card says so.
        brief: only what `short` tests.

    Returns:
        the card. It ends early where an expert does not load, or gives what is no label.

    Raises:
        ExpertError: there are no pictures, or the partner is not of the other task.
    """
    if partner is not None and {partner.card.task, expert.card.task} != {"depth", "normals"}:
        raise ExpertError(
            f"{partner.card.uri} gives {partner.card.task}, and {expert.card.uri} {expert.card.task}; only depth and "
            "normals can be held against each other"
        )
    shown = [scene.image for scene in scenes()] if images is None else images
    if not len(shown):
        raise ExpertError("no pictures to look at; give some, or None for rendered scenes")
    lines = _identity(expert, device)
    if lines[0].status != "fail":
        lines += short(expert, shown) if brief else _gathered(_all(expert, shown, images is not None, seconds, device))
        if partner is not None and not brief:
            lines.append(_held_against(expert, partner, alike(shown[:MOST]), device))
    return Card(expert.card.uri, expert.card.task, tuple(lines))


def short(expert: Expert, images: Pictures) -> list[Verdict]:
    """A quick look before labeling, at the first `BRIEF` pictures of a dataset: at most 49 predictions.

    Args:
        expert: loaded.
        images: uint8 H×W×3 RGB, or whole samples, as the dataset has them; brought to one size.

    Returns:
        verdicts on soundness, determinism, batch = single, the mirror and the frame; the caller warns of those whose
        status is "fail" or "warn" (`str` of a verdict says all of it). What the expert raises is a verdict, too.
    """
    return _gathered(_brief(expert, images)) if len(images) else []


def _gathered(lines: Iterator[Verdict]) -> list[Verdict]:
    """The verdicts, up to where the expert stops giving labels."""
    found = []
    try:
        for verdict in lines:
            found.append(verdict)
    except (ExpertError, LabelError) as error:
        found.append(Verdict("answers", "fail", str(error), "it gives no label of some pictures", "see the message"))
    return found


def _brief(expert: Expert, images: Pictures) -> Iterator[Verdict]:
    inputs = alike(images[:BRIEF])
    labels = running.ask(expert, inputs)
    yield (verdict := spaces.sound(expert, inputs, labels))
    if verdict.status != "fail":
        yield from _repeats(expert, inputs, labels)
        if not expert.needs_sample:
            yield geometry.mirror(expert, inputs[:CHANGED], labels[:CHANGED])
            yield geometry.frame(expert, inputs[:CHANGED])


def _all(expert: Expert, images: Pictures, own: bool, seconds: float, device: str) -> Iterator[Verdict]:
    """All lines after the first two; ``own`` tells that the user gave the pictures."""
    inputs = alike(images[:MOST])
    labels = running.ask(expert, inputs)
    yield (verdict := spaces.sound(expert, inputs, labels))
    if verdict.status == "fail":
        return
    yield from _repeats(expert, inputs, labels)
    if expert.needs_sample:
        why = "it looks at more than pictures, and these would be changed: mirror, frame, sizes"
        yield Verdict("other pictures", "not applicable", why)
    else:
        yield geometry.mirror(expert, inputs, labels)
        yield geometry.frame(expert, inputs[:BRIEF])
        yield running.sizes(expert, inputs[0].image, seconds)
    yield from _meaning(expert, inputs, labels, own)
    yield from running.costs(expert, inputs, device, BATCH * seconds)


def _identity(expert: Expert, device: str) -> list[Verdict]:
    """Whether it loads, and says what it is."""
    began = time.perf_counter()
    try:
        expert.load(device)
    except Exception as error:  # an expert is anybody's code
        told = str(error) if isinstance(error, ClipzooError) else f"{type(error).__name__}: {error}"
        return [Verdict("loads", "fail", told, "it does not load", "see the message")]
    return [Verdict("loads", "pass", f"on {device} in {time.perf_counter() - began:.1f} s"), _told(expert)]


def _told(expert: Expert) -> Verdict:
    """Whether its card has all that a manifest should."""
    card, convention = expert.card, expert.card.convention
    weights = card.weights_sha256[:12] or "of no known hash"
    seen = f"license {card.license}, revision {card.revision or 'none'}, weights {weights}"
    if card.task == "depth" and not (convention.along if convention.kind == "metric" else convention.kind):
        return Verdict("card", "fail", seen, "the kind of depth is not stated", "give Convention(kind=…, along=…)")
    if not card.revision and not card.weights_sha256:
        fix = "give the card a revision or the weights' SHA-256: labels of other weights would mix with these"
        return Verdict("card", "warn", seen, "nothing says which weights these are", fix)
    if card.license in ("", "unknown"):
        fix = "find it before you publish what was trained on the labels"
        return Verdict("card", "warn", seen, "the license is unknown", fix)
    return Verdict("card", "pass", seen)


def _repeats(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> Iterator[Verdict]:
    yield (again := running.determinism(expert, inputs, labels))
    if again.status != "fail":
        yield running.batch_is_single(expert, inputs, labels)


def _meaning(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any], own: bool) -> Iterator[Verdict]:
    """The lines of the expert's own task."""
    task = expert.card.task
    if task == "edges":
        yield meaning.edges(labels, inputs)
    if task in ("segmentation", "detection"):
        yield spaces.space(expert, labels, own)
    if task == "normals":
        yield meaning.facing(labels)
    if task in ("depth", "normals") and not expert.needs_sample:
        known = scenes()
        if own:
            labels = running.ask(expert, alike([scene.image for scene in known]))
        if task == "depth":
            yield from meaning.depth(labels, known, expert.card.convention)
        else:
            yield meaning.axes("normals' axes", labels, [meaning.truth_of(scene) for scene in known])


def _held_against(expert: Expert, partner: Expert, inputs: Sequence[ExpertInput], device: str) -> Verdict:
    """Normals and depth of the same pictures."""
    normals, depth = (expert, partner) if expert.card.task == "normals" else (partner, expert)
    try:
        partner.load(device)
        answers = running.ask(normals, inputs), running.ask(depth, inputs)
    except Exception as error:
        return Verdict("normals with depth", "unsure", f"{type(error).__name__}: {error}")
    H, W = inputs[0].image.shape[:2]
    return meaning.together(*answers, depth.card.convention, (H, W))
