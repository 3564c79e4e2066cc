"""Columns of labels on disk: shards, manifests, verification."""

from clipzoo.store.column import Column
from clipzoo.store.dataset import update_dataset
from clipzoo.store.manifest import Manifest, create_file, runs, software
from clipzoo.store.merge import merge
from clipzoo.store.rows import SCHEMA, TAR_MARK, failures, marks_of
from clipzoo.store.store import Store
from clipzoo.store.verify import Problem, Verification, verification, verify
from clipzoo.store.writer import ColumnWriter

__all__ = [
    "SCHEMA", "TAR_MARK", "Column", "ColumnWriter", "Manifest", "Problem", "Store", "Verification", "create_file",
    "failures", "marks_of", "merge", "runs", "software", "update_dataset", "verification", "verify",
]  # fmt: skip
