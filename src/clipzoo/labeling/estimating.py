"""What labeling a dataset will take, from a sample of it that is labeled and thrown away."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert
from clipzoo.labeling._budget import Budget
from clipzoo.labeling._loading import create_experts, load_expert, resolve_device
from clipzoo.labeling._progress import COMMIT, Meter, Progress
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import Work, label_shards
from clipzoo.labeling.plan import Job, spread
from clipzoo.readers import Entry, Reader, open_dataset
from clipzoo.stopping import signals
from clipzoo.store import Column, Store
from clipzoo.types import Sample

SHARDS, IMAGES, SECONDS = 16, 1000, 20.0
"""A sample comes from so many shards, has at most so many images, and takes about so long where they are slow."""

WARM, MEASURED = "warm", "measured"


@dataclass(frozen=True, slots=True)
class ColumnEstimate:
    """What a column will be; ``failures`` is the share of the sample that got no label."""

    name: str
    bytes: float
    seconds_per_image: float
    """Of the expert alone."""
    failures: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What labeling a whole dataset will take on this machine.

    Attributes:
        samples: of the dataset; extrapolated where it has more than `SHARDS` shards.
        measured: images that were labeled to know.
        seconds: of the whole run, with loading.
        columns: one an expert.
    """

    samples: int
    measured: int
    seconds: float
    columns: tuple[ColumnEstimate, ...]

    @property
    def bytes(self) -> float:
        """Of all columns, on disk."""
        return sum(column.bytes for column in self.columns)

    def price(self, per_hour: float) -> float:
        """In the unit of ``per_hour``."""
        return self.seconds / 3600 * per_hour


class _Sampled(Reader):
    """A few entries of another dataset, as shards of their own."""

    def __init__(self, reader: Reader, entries: dict[str, Sequence[Entry]]) -> None:
        self.reader, self.entries = reader, entries
        self.location, self.shards, self.threads = reader.location, tuple(entries), reader.threads

    def index(self, shard: str) -> list[Entry]:
        return [*self.entries[shard]]

    def read(self, entry: Entry) -> Sample:
        return self.reader.read(entry)


def estimate(
    data: str,
    experts: Sequence[str | Expert] | str | Expert,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
) -> Estimate:
    """Label a sample of the dataset in a temporary store, and extrapolate.

    A first batch warms up and is not counted. What a shard costs whatever its size (its index, its commit) is counted
    by shards, the rest by images.

    Args:
        data, experts, device, batch_size, tuning: as `label` takes them.

    Raises:
        DatasetError, ExpertError: as `label`; whatever share of samples fails is no error here.
    """
    reader = open_dataset(data)
    made = create_experts(experts, batch_size)
    for expert in made:
        if expert.reads:
            raise ExpertError(
                f"{expert.card.uri} reads the column {expert.reads[0]}, of which a sample has no labels: leave it out "
                "of the estimate"
            )
    began = time.perf_counter()
    picked, samples = _pick(reader, IMAGES)
    indexing = (time.perf_counter() - began) / min(SHARDS, len(reader.shards))
    with TemporaryDirectory(prefix="clipzoo-estimate-") as folder, tuning.fixed_threads():
        works = [_work(expert, Store(folder), tuning) for expert in made]
        began = time.perf_counter()
        for work in works:
            load_expert(work, resolve_device(device), tuning, batch_size)
        loading = time.perf_counter() - began
        largest = max(work.batch_size for work in works)
        warm = _measure(reader, WARM, spread(picked, largest), works)
        count = max(4 * largest, round(SECONDS * warm.images / max(warm.elapsed, 1e-6)))
        meter = _measure(reader, MEASURED, spread(picked, count), works)
        images = meter.images or 1
        seconds = (
            loading
            + samples * (meter.elapsed - meter.seconds[COMMIT]) / images
            + len(reader.shards) * (indexing + meter.seconds[COMMIT])
        )
        columns = tuple(_column(work.column, meter, samples, len(reader.shards)) for work in works)
    return Estimate(samples, meter.images, seconds, columns)


def _pick(reader: Reader, count: int) -> tuple[list[Entry], int]:
    """Entries from all over the dataset, about ``count``, and how many it has."""
    shards = spread(reader.shards, SHARDS)
    picked, seen = list[Entry](), 0
    for shard in shards:
        entries = reader.index(shard)
        seen += len(entries)
        picked += spread(entries, -(-count // len(shards)))
    return picked, round(seen * len(reader.shards) / len(shards))


def _work(expert: Expert, store: Store, tuning: Tuning) -> Work:
    column = store.create(tuning.card(expert), {})
    return Work(expert, column, Budget(column.name, allowed=1.0), expert.batch_size)


def _measure(reader: Reader, shard: str, entries: Sequence[Entry], works: Sequence[Work]) -> Meter:
    progress = Progress([work.column.name for work in works], 1)
    job = Job(shard, tuple(range(len(works))))
    with signals() as stop:
        label_shards(_Sampled(reader, {shard: entries}), [job], works, stop, progress)
    return progress.total


def _column(column: Column, meter: Meter, samples: int, shards: int) -> ColumnEstimate:
    """Members and their headers are whole blocks; a tar ends at a whole record, half of it padding in the mean."""
    rows = column.rows(MEASURED)
    sizes = [size for size in rows["size"].to_pylist() if size is not None]
    block, labeled = tarfile.BLOCKSIZE, len(sizes) / max(len(rows), 1)
    member = sum(block + -(-size // block) * block for size in sizes) / max(len(sizes), 1)
    return ColumnEstimate(
        column.name,
        bytes=samples * labeled * member + shards * tarfile.RECORDSIZE / 2,
        seconds_per_image=meter.seconds[column.name] / max(meter.labeled[column.name], 1),
        failures=1 - labeled,
    )
