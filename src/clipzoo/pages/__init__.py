"""HTML pages: the report of a run, the gallery of a store and the check of a dataset, each a self-contained file."""

from clipzoo.pages.gallery import Gallery, inspect
from clipzoo.pages.pictures import PictureRow, cases
from clipzoo.pages.report import write_page

__all__ = ["Gallery", "PictureRow", "cases", "inspect", "write_page"]
