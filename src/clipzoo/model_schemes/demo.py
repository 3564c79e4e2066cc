"""``demo:clip``: the packaged start, a tiny CLIP."""

from clipzoo.demo.model import LEARNING_RATES, resolve

__all__ = ["LEARNING_RATES", "resolve"]
