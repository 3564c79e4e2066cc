"""The page that a run hands over: one file, no external resource."""

from clipzoo.reporting.page import write_page
from clipzoo.reporting.pictures import PictureRow, cases

__all__ = ["PictureRow", "cases", "write_page"]
