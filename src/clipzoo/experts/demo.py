"""The tiny experts of the embedded demo: one small network per task, trained in minutes on rendered rooms."""

from clipzoo.demo.expert import FAMILIES, create

__all__ = ["FAMILIES", "create"]
