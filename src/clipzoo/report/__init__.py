"""The page that a run hands over: one file, no external resource."""

from clipzoo.report.page import write_page
from clipzoo.report.pictures import PictureRow, cases

__all__ = ["PictureRow", "cases", "write_page"]
