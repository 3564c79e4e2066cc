"""The student: an OpenCLIP model with heads."""

from clipzoo.models.student import HeadSpec, Student

__all__ = ["HeadSpec", "Student"]
