"""``check`` and ``quick_check``: run an expert on pictures and test its labels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import cast

from clipzoo.conformance import geometry, meaning, running, spaces
from clipzoo.conformance.pictures import MOST, to_one_size
from clipzoo.conformance.report import ConformanceReport, Verdict
from clipzoo.conformance.scenes import scenes
from clipzoo.errors import ClipzooError, ExpertError, LabelError
from clipzoo.experts import Expert, ExpertInput
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.types import ImageArray

QUICK, CHANGED = 8, 6
"""Pictures of a quick check, and those that are mirrored, stretched and cropped: the fewest that suffice."""

BATCH = 1 / 6
"""Share of the seconds for pictures of all sizes that one batch may take."""

Pictures = Sequence[ImageArray | ExpertInput]


def check(
    expert: Expert,
    images: Pictures | None = None,
    *,
    partner: Expert | None = None,
    device: str = "cpu",
    seconds: float = 60.0,
    quick: bool = False,
) -> ConformanceReport:
    """Test that an expert keeps its contract.

    Args:
        expert: not yet loaded; loading is the first test.
        images: uint8 H×W×3 RGB, or whole samples; the first `MOST` are used, brought to one size. Default: rendered
            scenes. Depth and normals are always tested on rendered scenes, too.
        partner: an expert of depth if ``expert`` predicts normals, or the reverse, not yet loaded: normals are compared
            with depth on ``images``.
        device: device of the experts.
        seconds: time limit for pictures of all sizes together; larger ones are skipped and listed in the report.
        quick: run only the tests of `quick_check`.

    Returns:
        the report. It ends early if an expert does not load or returns invalid labels.

    Raises:
        ExpertError: there are no pictures, the partner's task cannot be compared, there is a partner and ``quick``, or
            the labels are existing ones or computed from other columns.
    """
    if expert.imports or expert.reads:
        source = f"reads the column {expert.reads[0]}" if expert.reads else "reads existing labels"
        raise ExpertError(
            f"{expert.card.uri} {source}, so it has no labels of changed pictures to test. Label the dataset with it, "
            "then run `clipzoo labels verify STORE --data DATA`, and inspect the labels by `clipzoo inspect`"
        )
    if partner is not None and quick:
        raise ExpertError(
            f"{partner.card.uri} is given with --short (quick=True), but a quick check compares no experts: remove "
            "--short, or --with"
        )
    if partner is not None and {partner.card.task, expert.card.task} != {"depth", "normals"}:
        raise ExpertError(
            f"{partner.card.uri} predicts {partner.card.task} and {expert.card.uri} {expert.card.task}: only depth and "
            "normals can be compared; choose an expert of the other of these two tasks"
        )
    shown = [scene.image for scene in scenes()] if images is None else images
    if not len(shown):
        raise ExpertError("there are no pictures to test on; pass at least one, or None for rendered scenes")
    lines = _identity(expert, device)
    loaded = lines[0].status != "fail"
    if loaded and quick:
        lines += quick_check(expert, shown)
    elif loaded:
        lines += _collect(_all(expert, shown, images is not None, seconds, device))
        if partner is not None:
            lines.append(_compare_partner(expert, partner, to_one_size(shown[:MOST]), device))
    return ConformanceReport(expert.card.uri, expert.card.task, tuple(lines))


def quick_check(expert: Expert, images: Pictures) -> list[Verdict]:
    """Test an expert before labeling, on the first `QUICK` pictures of a dataset: at most 49 predictions.

    Args:
        expert: loaded.
        images: uint8 H×W×3 RGB, or whole samples, as the dataset has them; brought to one size.

    Returns:
        verdicts on soundness, determinism, batch = single, mirror and frame. The caller warns of those whose status is
        "fail" or "warn", with their `str`. An error that the expert raises is a verdict, too.
    """
    return _collect(_quick(expert, images)) if len(images) else []


def _collect(lines: Iterator[Verdict]) -> list[Verdict]:
    """Collect the verdicts until the expert raises an error, which becomes the last verdict."""
    verdicts = []
    try:
        for verdict in lines:
            verdicts.append(verdict)
    except (ExpertError, LabelError) as error:
        verdicts.append(Verdict("answers", "fail", str(error), "some pictures get no label", "see the message"))
    return verdicts


def _quick(expert: Expert, images: Pictures) -> Iterator[Verdict]:
    inputs = to_one_size(images[:QUICK])
    labels = running.answers(expert, inputs)
    verdict = spaces.sound(expert, inputs, labels)
    yield verdict
    if verdict.status != "fail":
        yield from _repeats(expert, inputs, labels)
        if not expert.needs_sample:
            yield geometry.mirror(expert, inputs[:CHANGED], labels[:CHANGED])
            yield geometry.frame(expert, inputs[:CHANGED])


def _all(expert: Expert, images: Pictures, own: bool, seconds: float, device: str) -> Iterator[Verdict]:
    """Yield all verdicts after the first two; ``own``: the pictures are the user's, not rendered scenes."""
    inputs = to_one_size(images[:MOST])
    labels = running.answers(expert, inputs)
    verdict = spaces.sound(expert, inputs, labels)
    yield verdict
    if verdict.status == "fail":
        return
    yield from _repeats(expert, inputs, labels)
    if expert.needs_sample:
        why = "mirror, frame and sizes are not tested: the expert needs whole samples, and these tests change pictures"
        yield Verdict("other pictures", "not applicable", why)
    else:
        yield geometry.mirror(expert, inputs, labels)
        yield geometry.frame(expert, inputs[:QUICK])
        yield running.sizes(expert, inputs[0].image, seconds)
    yield from _meaning(expert, inputs, labels, own)
    yield from running.costs(expert, inputs, device, BATCH * seconds)


def _identity(expert: Expert, device: str) -> list[Verdict]:
    """Test that the expert loads and its card is complete."""
    began = time.perf_counter()
    try:
        expert.load(device)
    except Exception as error:  # an expert is third-party code
        message = str(error) if isinstance(error, ClipzooError) else f"{type(error).__name__}: {error}"
        return [Verdict("loads", "fail", message, "the expert does not load", "see the message")]
    return [Verdict("loads", "pass", f"on {device} in {time.perf_counter() - began:.1f} s"), _check_card(expert)]


def _check_card(expert: Expert) -> Verdict:
    """Test that the expert's card has all that a manifest needs."""
    card, convention = expert.card, expert.card.convention
    weights = card.weights_sha256[:12] or "of no known hash"
    seen = f"license {card.license}, revision {card.revision or 'none'}, weights {weights}"
    if card.task == "depth" and not (convention.along if convention.kind == "metric" else convention.kind):
        return Verdict("card", "fail", seen, "the kind of depth is not stated", "set Convention(kind=…, along=…)")
    if not card.revision and not card.weights_sha256:
        fix = "set a revision or the weights' SHA-256, or labels of other weights will be mixed with these"
        return Verdict("card", "warn", seen, "the weights are not identified", fix)
    if card.license in ("", "unknown"):
        fix = "find the license before you publish models trained on the labels"
        return Verdict("card", "warn", seen, "the license is unknown", fix)
    return Verdict("card", "pass", seen)


def _repeats(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> Iterator[Verdict]:
    verdict = running.determinism(expert, inputs, labels)
    yield verdict
    if verdict.status != "fail":
        yield running.batch_is_single(expert, inputs, labels)


def _meaning(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object], own: bool) -> Iterator[Verdict]:
    """Yield the verdicts of the tests of the expert's task."""
    task = expert.card.task
    if task == "edges":
        yield meaning.edges(cast(Sequence[Edges], labels), inputs)
    if task in ("segmentation", "detection"):
        yield spaces.space(expert, cast(Sequence[spaces.Classified], labels), own)
    if task == "normals":
        yield meaning.facing(cast(Sequence[Normals], labels))
    if task in ("depth", "normals") and not expert.needs_sample:
        known = scenes()
        if own:
            labels = running.predict(expert, to_one_size([scene.image for scene in known]))
        if task == "depth":
            yield from meaning.depth(cast(Sequence[Depth], labels), known, expert.card.convention)
        else:
            truths = [meaning.truth_of(scene) for scene in known]
            yield meaning.axes("normals' axes", cast(Sequence[Normals], labels), truths)


def _compare_partner(expert: Expert, partner: Expert, inputs: Sequence[ExpertInput], device: str) -> Verdict:
    """Compare normals and depth of the same pictures."""
    normals, depth = (expert, partner) if expert.card.task == "normals" else (partner, expert)
    try:
        partner.load(device)
        directions = cast(Sequence[Normals], running.predict(normals, inputs))
        distances = cast(Sequence[Depth], running.predict(depth, inputs))
    except Exception as error:
        return Verdict("normals with depth", "unsure", f"{type(error).__name__}: {error}")
    H, W = inputs[0].image.shape[:2]
    return meaning.normals_with_depth(directions, distances, depth.card.convention, (H, W))
