"""Interpolation between the start and a trained student, of a run or of two folders."""

from clipzoo.runs.interpolation.of_run import Interpolations
from clipzoo.runs.interpolation.pair import interpolate_pair
from clipzoo.runs.interpolation.sweep import BEST, RECORD

__all__ = ["BEST", "RECORD", "Interpolations", "interpolate_pair"]
