"""Estimate of the cost of labeling a dataset, from a sample that is labeled and discarded."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert
from clipzoo.files import AnyPath
from clipzoo.labeling._budget import Budget
from clipzoo.labeling._loading import create_experts, load_expert, resolve_device
from clipzoo.labeling._progress import COMMIT, Meter, Progress
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import Work, label_shards
from clipzoo.labeling.plan import Job, choose
from clipzoo.locations import open_dataset
from clipzoo.readers import Entry, Reader, spread
from clipzoo.readers.base import Keys
from clipzoo.stopping import signals
from clipzoo.store import Column, Store
from clipzoo.types import Sample

SHARDS, IMAGES, SECONDS = 16, 1000, 20.0
"""Largest sample: shards, images, and approximate seconds for slow experts."""

WARM, MEASURED = "warm", "measured"


@dataclass(frozen=True, slots=True)
class ColumnEstimate:
    """The estimate for a column; ``failures`` is the share of the sample without a label."""

    name: str
    bytes: float
    seconds_per_image: float
    """Of the expert, without reading and decoding."""
    failures: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of labeling a whole dataset, or the chosen shards of it, on this machine.

    Attributes:
        samples: number of samples in the shards; extrapolated if there are more than `SHARDS` shards.
        measured: number of images in the sample.
        seconds: for the whole run, including loading.
        columns: one per expert.
    """

    samples: int
    measured: int
    seconds: float
    columns: tuple[ColumnEstimate, ...]

    @property
    def bytes(self) -> float:
        """Size of all columns on disk."""
        return sum(column.bytes for column in self.columns)

    def price(self, per_hour: float) -> float:
        """Return the price of the run, in the unit of ``per_hour``."""
        return self.seconds / 3600 * per_hour


class _Sampled(Reader):
    """Some entries of another dataset, as a dataset whose keys are unique: shards may have equal keys."""

    def __init__(self, reader: Reader, shard: str, entries: Sequence[Entry]) -> None:
        keys = Keys()
        self.reader, self.entries = reader, {keys.take(entry.key)[0]: entry for entry in entries}
        self.location, self.shards, self.threads = reader.location, (shard,), reader.threads

    def index(self, shard: str) -> list[Entry]:
        return [replace(entry, key=key) for key, entry in self.entries.items()]

    def read(self, entry: Entry) -> Sample:
        return self.reader.read(self.entries[entry.key])


def estimate(
    data: AnyPath,
    experts: Sequence[str | Expert] | str | Expert,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    tuning: Tuning = Tuning(),  # noqa: B008  # frozen
    shards: Collection[str] | str | None = None,
    codec: str | None = None,
) -> Estimate:
    """Label a sample of the dataset in a temporary store, and extrapolate.

    A first batch is a warm-up and not counted. The fixed cost of a shard (index and commit) is extrapolated by shards,
    all other costs by images.

    Args:
        data, experts, device, batch_size, tuning, shards, codec: see `label`.

    Raises:
        DatasetError, ExpertError: see `label`. Failed samples are no error here.
    """
    reader = open_dataset(data)
    made = create_experts(experts, batch_size)
    for expert in made:
        if expert.reads:
            raise ExpertError(
                f"{expert.card.uri} reads the column {expert.reads[0]}, which the estimate's sample does not have. "
                "Remove it from the estimate"
            )
    began = time.perf_counter()
    chosen = choose(reader, shards)
    picked, samples = _pick(reader, chosen, IMAGES)
    indexing = (time.perf_counter() - began) / min(SHARDS, len(chosen))
    with TemporaryDirectory(prefix="clipzoo-estimate-") as folder, tuning.fixed_threads():
        works = [_work(expert, Store(folder), tuning, codec) for expert in made]
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
            + len(chosen) * (indexing + meter.seconds[COMMIT])
        )
        columns = tuple(_column(work.column, meter, samples, len(chosen)) for work in works)
    return Estimate(samples, meter.images, seconds, columns)


def _pick(reader: Reader, chosen: Sequence[str], count: int) -> tuple[list[Entry], int]:
    """Return about ``count`` entries from the chosen shards, and the number of their samples."""
    shards = spread(chosen, SHARDS)
    picked, total = list[Entry](), 0
    for shard in shards:
        entries = reader.index(shard)
        total += len(entries)
        picked += spread(entries, -(-count // len(shards)))
    return picked, round(total * len(chosen) / len(shards))


def _work(expert: Expert, store: Store, tuning: Tuning, codec: str | None) -> Work:
    column = store.create(tuning.card(expert), {}, codec=codec)
    return Work(expert, column, Budget(column.name, allowed=1.0), expert.batch_size)


def _measure(reader: Reader, shard: str, entries: Sequence[Entry], works: Sequence[Work]) -> Meter:
    progress = Progress([work.column.name for work in works], 1)
    job = Job(shard, tuple(range(len(works))))
    with signals() as stop:
        label_shards(_Sampled(reader, shard, entries), [job], works, stop, progress)
    return progress.total


def _column(column: Column, meter: Meter, samples: int, shards: int) -> ColumnEstimate:
    """Extrapolate a column. Members and headers are whole blocks, and a tar's last record is half padding on "
    "average."""
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
