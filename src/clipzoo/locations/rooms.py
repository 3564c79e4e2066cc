"""``rooms:<split>?count=N``: pictures of rooms, rendered on first use."""

from clipzoo.demo.rendered import PROPOSALS, check, conventions, pictures, resolve, shares

__all__ = ["PROPOSALS", "check", "conventions", "pictures", "resolve", "shares"]
