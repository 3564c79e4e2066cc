"""Benchmark layouts; one file a layout."""
