"""Metrics of tasks that fill a file of their own."""
