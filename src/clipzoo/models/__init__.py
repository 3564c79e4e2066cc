"""The student: an OpenCLIP model with heads, and what it is loaded as for use."""

from clipzoo.models.loaded import load
from clipzoo.models.student import HeadSpec, Student

__all__ = ["HeadSpec", "Student", "load"]
