"""The location of a dataset: its path, its options, and the files that it names."""

from clipzoo.readers._location.location import IMAGES, METADATA, Location, kind_of, parse_options, with_endings

__all__ = ["IMAGES", "METADATA", "Location", "kind_of", "parse_options", "with_endings"]
