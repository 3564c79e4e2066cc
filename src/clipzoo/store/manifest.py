"""A column's ``manifest.json``, and its ``runs.jsonl`` with the cost of every run."""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import gettempdir
from typing import TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from clipzoo import files
from clipzoo.errors import RemoteError, StoreError, shell_word
from clipzoo.experts.base import ExpertCard
from clipzoo.files import Place
from clipzoo.tasks import png

FORMAT = 1
MANIFEST, RUNS = "manifest.json", "runs.jsonl"
EXPERT = ("uri", "weights_sha256", "revision", "preprocessing")
"""The fields that identify an expert's labels."""

FILES = ("weights_sha256", "files_sha256")
"""The fields that identify the files of an expert, whatever their revision."""

_COMMIT = re.compile("[0-9a-f]{40}")

SOFTWARE = ("clipzoo", "numpy", "pillow", "pyarrow", "torch", "torchvision", "transformers", "timm", "onnxruntime")


class Counts(BaseModel):
    """Sums over the committed shards. ``replaced`` counts commits that changed the labels of a shard.

    Changed labels are detected by the counts, and ``replaced`` differs where all others are equal. It is not written
    while it is 0.
    """

    shards: int = 0
    labels: int = 0
    failures: int = 0
    bytes: int = 0
    replaced: int = 0

    @model_serializer(mode="wrap")
    def _serialize(self, every: SerializerFunctionWrapHandler) -> dict[str, int]:
        return {name: count for name, count in every(self).items() if count or name != "replaced"}


class Manifest(BaseModel):
    """The description of a column.

    ``codec`` is how maps are written (`clipzoo.tasks.png.CODECS`); manifests without it are of columns of Pillow's PNG.
    ``expert`` is `ExpertCard.to_json`, and ``dataset`` is `clipzoo.readers.fingerprint`. ``seconds`` is the time for
    predicting and encoding over all runs, including labels that were dropped. ``software`` is that of the first run.
    """

    model_config = ConfigDict(extra="allow")

    format: int = FORMAT
    task: str
    slug: str
    codec: str = png.PNG
    expert: dict[str, object]
    convention: dict[str, object] = Field(default_factory=dict)
    dataset: dict[str, object] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    counts: Counts = Field(default_factory=Counts)
    seconds: float = 0.0

    @classmethod
    def of(cls, card: ExpertCard, dataset: Mapping[str, object], codec: str = png.DEFAULT) -> Manifest:
        """Return the manifest of a new, empty column: an expert over the dataset with this fingerprint."""
        expert = json.loads(json.dumps(card.to_json(), default=str))
        convention = expert.pop("convention")
        return cls(
            task=card.task,
            slug=card.slug,
            codec=codec,
            expert=expert,
            convention=convention,
            dataset=dict(dataset),
            software=software(),
        )

    @classmethod
    def read(cls, folder: Place) -> Manifest:
        """Read the manifest in a column's folder.

        Raises:
            StoreError: it is missing, damaged, of a later format, or names a folder out of the store.
        """
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate(json.loads(files.read(path)))
        except OSError as error:
            raise StoreError(f"{folder} is not a column: cannot read {MANIFEST} ({error.strerror})") from error
        except (ValueError, RecursionError) as error:  # pydantic's and JSON's
            raise StoreError(
                f"{path} is damaged: {error}. Remove the column (`clipzoo labels rm STORE TASK/SLUG --yes`) and label "
                "again"
            ) from error
        if manifest.format > FORMAT:
            raise StoreError(f"{path} has format {manifest.format}, this clipzoo reads up to {FORMAT}: update clipzoo")
        for field, name in (("task", manifest.task), ("slug", manifest.slug)):
            if "/" in name or not safe_name(name):
                raise StoreError(
                    f"{path} has {field}={name!r}, which is not the name of a folder, so that files named by it could "
                    "be written anywhere. In the manifest of an untrusted store this is an attack. If the store is "
                    f"yours, set {field} to the name of the column's folder"
                )
        return manifest

    def write(self, folder: Place) -> None:
        """Replace the manifest in ``folder``, whole or not at all."""
        text = json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n"
        with writing(folder):
            files.write(folder / MANIFEST, text.encode())

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of expert and convention, stored in every shard."""
        meaning = [self.task, self.convention, *(self.expert.get(name) for name in EXPERT)]
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]

    def agree(self, other: Manifest, folder: Place) -> None:
        """Raise `StoreError` unless labels made under ``other`` may join this column."""
        self.same_expert(other, folder)
        self.belongs(other.dataset, folder)

    def same_expert(self, other: Manifest, folder: Place) -> None:
        """Raise `StoreError` unless expert and convention of ``other`` are the same.

        Revisions may differ if the weights and all other files that determine labels are equal.
        """
        for name in ("task", "convention"):
            self._same(name, getattr(self, name), getattr(other, name), folder)
        files = [[one.expert.get(name) for name in FILES] for one in (self, other)]
        unchanged = all(files[0]) and files[0] == files[1]
        for name in EXPERT:
            if name != "revision" or not unchanged:
                self._same(name, self.expert.get(name), other.expert.get(name), folder)

    def same_revision(self, other: Manifest, folder: Place) -> None:
        """Raise `StoreError` if revisions differ: shards are marked with that of their manifest (`digest`)."""
        self._same("revision", self.expert.get("revision"), other.expert.get("revision"), folder)

    def _same(self, name: str, stored: object, given: object, folder: Place) -> None:
        if stored == given:
            return
        column = f"{shell_word(folder.parent.parent)} {folder.parent.name}/{folder.name}"
        fix = (
            f"give another output folder, remove this column (`clipzoo labels rm {column} --yes`), or name imported "
            "labels differently (`clipzoo labels import --as NAME`)"
        )
        revision = str(self.expert.get("revision"))
        if _COMMIT.fullmatch(revision) and name in ("revision", "weights_sha256"):
            uri, query, options = str(self.expert.get("uri")).partition("?")
            fix = (
                f"to use the existing labels as they are, name the column instead of the expert (in a recipe: column: "
                f"{folder.parent.name}/{folder.name}); to label with the earlier revision in a column of its own, use "
                f"the expert {uri.partition('@')[0]}@{revision}{query}{options}; otherwise {fix}"
            )
        raise StoreError(
            f"{folder} was made with {name} = {stored!r}, the expert now has {given!r}. One column cannot mix labels "
            f"of two meanings: {fix}"
        )

    def belongs(self, dataset: Mapping[str, object], folder: Place, whose: str = "this one") -> None:
        """Raise `StoreError` unless the column's labels are of the dataset with this fingerprint, ``whose``."""
        if self.dataset != dataset:
            raise StoreError(
                f"{folder} is a label store of another dataset: it has {_short(self.dataset)}, {whose} has "
                f"{_short(dataset)}. Labels are joined by shard and key, so give another folder. If shards were only "
                "added to the dataset, first rerun the command that made the column: it keeps the existing labels"
            )


def _short(dataset: Mapping[str, object]) -> str:
    digest = str(dataset.get("sha256", ""))[:12]
    return f"{dataset.get('shards', '?')} shards from {dataset.get('first', '?')!r} (fingerprint {digest})"


def software() -> dict[str, str]:
    """Return package -> version of the software that can change a label's bytes."""
    versions = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


# Runs ------------------------------------------------------------------------------------------------------


def append_run(folder: Place, **values: object) -> None:
    """Add a line to ``runs.jsonl`` with the time. A line that a crash left incomplete is ended first."""
    append_lines(folder, [run_line(**values)])


def run_line(**values: object) -> str:
    """Return a line for ``runs.jsonl`` with the time."""
    return json.dumps({"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **values}, sort_keys=True)


def append_lines(folder: Place, lines: Sequence[str]) -> None:
    """Add lines to ``runs.jsonl`` in one write. An object store gets the whole file again."""
    if lines:
        with writing(folder):
            files.append(folder / RUNS, "\n".join(lines).encode())


class RunLine(TypedDict, total=False):
    """A line of ``runs.jsonl``: its fields that are read; ``event`` tells which of them it has."""

    at: str
    event: str
    seconds: float
    shard: str
    source: str
    kept: int
    replaced: bool
    batch_size: int


def runs(folder: Place) -> Iterator[RunLine]:
    """Yield the lines of ``runs.jsonl``, without incomplete ones."""
    try:
        text = files.read(folder / RUNS).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(
            f"cannot read {folder / RUNS}: {error.strerror}. Remove it: only the cost of the runs is lost, no label"
        ) from error
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(values, dict):
            yield cast(RunLine, values)


@contextmanager
def writing(path: Place) -> Iterator[None]:
    """Turn errors of the disk or network in the block into `StoreError`: a full disk, permissions, a missing folder."""
    try:
        yield
    except RemoteError as error:
        raise StoreError(f"{error}. Fix this and rerun the command: committed shards are kept") from error
    except OSError as error:
        how = "Fix this" if error.errno in (errno.ELOOP, errno.EINVAL) else "Free space or grant permission"
        where = f" in {gettempdir()} (TMPDIR), from where files are uploaded," if files.remote(path) else ""
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}. {how}{where} and rerun the command: committed shards are "
            "kept"
        ) from error


def create_file(path: Path) -> Path:
    """Create a file and its folder, so that an output that cannot be written fails before hours of work."""
    if path.is_dir():
        raise StoreError(f"cannot write {path}: it is a folder. Give the path of a file, such as one in this folder")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    return path


def safe_name(name: str) -> bool:
    """Return True if a task, slug or shard name stays inside its folder."""
    return bool(name) and not re.search(r"(^|/)\.{1,2}(/|$)|^/|\\|\0|//", name)
