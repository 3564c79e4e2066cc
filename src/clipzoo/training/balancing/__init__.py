"""Balancing: factors on the losses of columns, step by step, one scheme a file (``training.balancing``).

The contrastive loss and the anchors keep their weights in the recipe. The weights of columns in the recipe multiply the
factors. A file has ``create``, which returns a `base.Balancing`.
"""

from clipzoo.training.balancing._schemes import PLUGINS, check, create
from clipzoo.training.balancing._weighing import Balancer
from clipzoo.training.balancing.base import Balancing, BalancingPlugin, Columns, Losses

__all__ = ["PLUGINS", "Balancer", "Balancing", "BalancingPlugin", "Columns", "Losses", "check", "create"]
