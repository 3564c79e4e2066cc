"""Columns of labels on disk: shards, manifests, verification."""

from clipzoo.store.growth import grow
from clipzoo.store.manifest import Manifest
from clipzoo.store.merge import merge
from clipzoo.store.store import SCHEMA, Column, Store
from clipzoo.store.verify import Problem, verify
from clipzoo.store.writer import ColumnWriter

__all__ = ["SCHEMA", "Column", "ColumnWriter", "Manifest", "Problem", "Store", "grow", "merge", "verify"]
