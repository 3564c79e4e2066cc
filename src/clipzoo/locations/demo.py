"""``demo:<split>``: packaged pictures of rooms."""

from clipzoo.demo.packaged import PROPOSALS, check, conventions, pictures, resolve, shares

__all__ = ["PROPOSALS", "check", "conventions", "pictures", "resolve", "shares"]
