"""The viewer of a store: all samples in a browser, from a local server that needs only the standard library."""

from clipzoo.viewer.server import Viewer, open_viewer

__all__ = ["Viewer", "open_viewer"]
