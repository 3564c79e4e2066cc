"""Runs: a recipe and its folder, and the verbs that label, train, evaluate, report and export."""

from clipzoo.runs._run import Run
from clipzoo.runs.verbs import evaluate, export, interpolate, label, report, run, train

__all__ = ["Run", "evaluate", "export", "interpolate", "label", "report", "run", "train"]
