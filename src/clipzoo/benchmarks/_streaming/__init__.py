"""Benchmarks as streamed splits: labels of stores, comparison of conventions, and the split itself."""
