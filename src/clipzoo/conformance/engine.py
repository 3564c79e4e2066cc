"""``check`` and ``short``: an expert is asked about pictures, and its answers judged line by line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from clipzoo.conformance import geometry, meaning, running, spaces
from clipzoo.conformance.card import Card, Verdict
from clipzoo.conformance.scenes import scenes
from clipzoo.errors import ClipzooError, ExpertError
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import ImageArray

MOST = 16
"""Pictures that are looked at, the first ones."""

BRIEF = 8
"""Pictures of a short check, of which `MIRRORED` are mirrored."""
MIRRORED = 6

Pictures = Sequence[ImageArray | ExpertInput]


def check(
    expert: Expert,
    images: Pictures | None = None,
    *,
    partner: Expert | None = None,
    device: str = "cpu",
    seconds: float = 60.0,
) -> Card:
    """Whether an expert keeps its contract, line by line.

    Args:
        expert: not yet loaded; loading it is the first line.
        images: uint8 H×W×3 RGB, or whole samples; the first `MOST` are used, brought to one size. By default rendered
            scenes. Depth and normals are held against rendered scenes in any case.
        partner: an expert of depth if ``expert`` gives normals, or the other way round: they are held against each
            other on ``images``.
        device: where experts run.
        seconds: what pictures of all sizes may take together; so much for a batch, too, at a sixth of it.

    Returns:
        the card. It ends early where an expert does not load, or gives what is no label.

    Raises:
        ExpertError: the partner cannot be loaded, or is not of the other task.
    """
    if partner is not None and {partner.card.task, expert.card.task} != {"depth", "normals"}:
        raise ExpertError(
            f"{partner.card.uri} gives {partner.card.task}, and {expert.card.uri} {expert.card.task}; only depth and "
            "normals can be held against each other"
        )
    lines: list[Verdict] = []
    card = lambda: Card(expert.card.uri, expert.card.task, tuple(lines))  # noqa: E731
    lines += _identity(expert, device)
    if lines[0].status == "fail":
        return card()
    inputs = running.samples([scene.image for scene in scenes()] if images is None else images[:MOST])
    labels = _answers(expert, inputs, lines)
    if labels is None:
        return card()
    lines += _repeats(expert, inputs, labels)
    if expert.needs_sample:
        lines.append(_sample_only("mirror, frame, sizes and meaning"))
        return card()
    lines += [
        geometry.mirror(expert, inputs, labels),
        geometry.frame(expert, inputs[:BRIEF]),
        running.sizes(expert, inputs[0].image, seconds),
        *_meaning(expert, inputs, labels, own=images is not None),
        *([] if partner is None else [_partner(expert, partner, inputs, labels, device)]),
        *running.costs(expert, inputs, device, seconds / 6),
    ]
    return card()


def short(expert: Expert, images: Pictures) -> list[Verdict]:
    """A quick look before labelling, at the first `BRIEF` pictures of a dataset: at most 25 predictions.

    Args:
        expert: loaded.
        images: uint8 H×W×3 RGB, or whole samples, as the dataset has them; brought to one size.

    Returns:
        verdicts on soundness, determinism, batch = single, and the mirror; the caller warns of those whose status is
        "fail" or "warn" (`str` of a verdict says all of it). Never raises for what the expert does.
    """
    if not images:
        return []
    inputs, lines = running.samples(images[:BRIEF]), list[Verdict]()
    labels = _answers(expert, inputs, lines)
    if labels is None:
        return lines
    try:
        lines += _repeats(expert, inputs, labels)
        if expert.needs_sample:
            return [*lines, _sample_only("the mirror")]
        return [*lines, geometry.mirror(expert, inputs[:MIRRORED], labels[:MIRRORED])]
    except ExpertError as error:
        return [*lines, Verdict("sound", "fail", str(error), "the expert fails at times", "see the message")]


def _identity(expert: Expert, device: str) -> list[Verdict]:
    """Whether it loads, and says what it is."""
    began = time.perf_counter()
    try:
        expert.load(device)
    except Exception as error:  # an expert is anybody's code
        told = str(error) if isinstance(error, ClipzooError) else f"{type(error).__name__}: {error}"
        return [Verdict("loads", "fail", told, "it does not load", "see the message")]
    loaded = Verdict("loads", "pass", f"on {device} in {time.perf_counter() - began:.1f} s")
    return [loaded, _told(expert)]


def _told(expert: Expert) -> Verdict:
    """Whether the card has all that a manifest should."""
    card, convention = expert.card, expert.card.convention
    seen = (
        f"licence {card.licence}, revision {card.revision or 'none'}, weights {card.weights_sha256[:12] or 'no hash'}"
    )
    stated = convention.along if convention.kind == "metric" else convention.kind
    if card.task == "depth" and not stated:
        return Verdict("card", "fail", seen, "the kind of depth is not stated", "give Convention(kind=…, along=…)")
    if not card.revision and not card.weights_sha256:
        fix = "give the card a revision or the weights' SHA-256: labels of other weights would mix with these"
        return Verdict("card", "warn", seen, "nothing says which weights these are", fix)
    if card.licence in ("", "unknown"):
        return Verdict(
            "card", "warn", seen, "the licence is unknown", "find it before you publish what was trained on it"
        )
    return Verdict("card", "pass", seen)


def _answers(expert: Expert, inputs: Sequence[ExpertInput], lines: list[Verdict]) -> list[Any] | None:
    """The labels of ``inputs``; None, with the reason among ``lines``, if there are none or they are not sound."""
    try:
        labels = running.ask(expert, inputs)
    except ExpertError as error:
        lines.append(Verdict("sound", "fail", str(error), "it gives no labels", "see the message"))
        return None
    lines.append(spaces.sound(expert, inputs, labels))
    return None if lines[-1].status == "fail" else labels


def _repeats(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> list[Verdict]:
    first = inputs[:BRIEF], labels[:BRIEF]
    again = running.determinism(expert, *first)
    if again.status == "fail":
        return [again, Verdict("batch = single", "not applicable", "labels are random")]
    return [again, running.batch_is_single(expert, *first)]


def _sample_only(what: str) -> Verdict:
    seen = f"it looks at more than pictures, which are changed for {what}"
    return Verdict(what, "not applicable", seen)


def _meaning(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any], own: bool) -> list[Verdict]:
    """The lines of the expert's own task."""
    task = expert.card.task
    if task == "edges":
        return [meaning.edges(labels, inputs)]
    if task in ("segmentation", "detection"):
        return [spaces.space(expert, labels, own)]
    if task not in ("depth", "normals"):
        return []
    known = scenes()
    seen = running.ask(expert, running.samples([scene.image for scene in known])) if own else labels
    if task == "depth":
        return meaning.depth(seen, known, expert.card.convention)
    truths = [meaning.truth_of(scene) for scene in known]
    return [meaning.axes("normals' axes", seen, truths), meaning.facing(labels)]


def _partner(
    expert: Expert, partner: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any], device: str
) -> Verdict:
    partner.load(device)
    H, W = inputs[0].image.shape[:2]
    others = running.ask(partner, inputs)
    if expert.card.task == "normals":
        return meaning.together(labels, others, partner.card.convention, (H, W))
    return meaning.together(others, labels, expert.card.convention, (H, W))
