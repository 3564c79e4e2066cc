"""Comparison of finished runs: ``clipzoo report RUN RUN …``."""

from clipzoo.runs.comparing.runs import compare_runs

__all__ = ["compare_runs"]
