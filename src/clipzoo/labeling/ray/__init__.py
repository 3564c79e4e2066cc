"""Labeling on a Ray cluster."""

from clipzoo.labeling.ray.driver import label_shards
from clipzoo.labeling.ray.worker import Order

__all__ = ["Order", "label_shards"]
