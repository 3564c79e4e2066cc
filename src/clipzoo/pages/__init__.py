"""Every page that a person looks at: a run's report and a store's gallery, each one file without external resources."""

from clipzoo.pages.gallery import Gallery, inspect
from clipzoo.pages.pictures import PictureRow, cases
from clipzoo.pages.report import write_page

__all__ = ["Gallery", "PictureRow", "cases", "inspect", "write_page"]
